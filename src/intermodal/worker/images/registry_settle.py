"""Fits a layer of a registry onto the ones below it.

Some builders leave out a directory's own entry, or name a file by way of a link (`lib/x`, where `/lib` is a link to
`/usr/lib`). Unpacked by itself, such a layer would hide the link or the directory's mode.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.merge import merge
from intermodal.worker.images.view import Node, View

USUAL = (0o755, 0, 0)  # mode and owner of a directory that was made up


def needs_settling(implied: list[str], below: list[Path]) -> bool:
    """Whether a directory that the layer takes for granted is not a plain one below it."""
    view = View(below)
    for name in implied:
        real, node = _real(view, name)
        if node is not None and (real != name or _properties(node) != USUAL):
            return True
    return False


def settle(source: Path, stage: Path, implied: list[str], below: list[Path]) -> None:
    """Make `stage/upper` the same layer, fitted. Its files are links to those of `source`."""
    view, upper = View(below), stage / "upper"
    merge([source], upper)
    for number, name in enumerate(sorted(implied, key=lambda one: one.count("/"))):
        path = upper / name
        real, node = _real(view, name)
        if node is None or not path.is_dir() or path.is_symlink():
            continue
        if real != name:
            moved = stage / f"moved-{number}"
            os.rename(path, moved)
            _make(upper, real, view)
            merge([moved], upper / real)
            shutil.rmtree(moved)
        _like(upper / real, node)


def _real(view: View, name: str) -> tuple[str, Node | None]:
    """Where a directory is below, and what is there; None where there is no directory."""
    real = view.resolve(name)
    node = view.lookup(real)
    return real, node if node is not None and node.is_directory else None


def _make(upper: Path, relative: str, view: View) -> None:
    done = ""
    for part in relative.split("/"):
        done = f"{done}/{part}" if done else part
        if (upper / done).is_symlink():
            raise StepError(f"the image's layers disagree whether /{done} is a link: it cannot be unpacked")
        if not (upper / done).is_dir():
            (upper / done).mkdir()
            node = view.lookup(done)
            if node is not None and node.is_directory:
                _like(upper / done, node)


def _properties(node: Node) -> tuple[int, int, int]:
    return stat.S_IMODE(node.found.st_mode), node.found.st_uid, node.found.st_gid


def _like(path: Path, node: Node) -> None:
    mode, user, group = _properties(node)
    if os.geteuid() == 0:
        os.chown(path, user, group)
    path.chmod(mode)
