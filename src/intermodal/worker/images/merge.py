"""Many layers into one: what overlayfs would show of them, with their whiteouts, as one directory.

Files are hard links to those of the layers merged, so it costs names and no content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")  # of a directory that hides the one below


def merge(layers: list[Path], target: Path) -> None:
    """Merge layers, lowest first, into `target`, which lies on their file system and is empty.

    Whiteouts stay, because the result lies on further layers.
    """
    for layer in layers:
        _merge_directory(layer, target, made=False)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link; a copy with all properties where the source lies on another file system (a mounted layer)."""
    try:
        os.link(source, target, follow_symlinks=False)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    found = source.lstat()
    if stat.S_ISLNK(found.st_mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG(found.st_mode):
        shutil.copyfile(source, target, follow_symlinks=False)
    else:
        os.mknod(target, found.st_mode, found.st_rdev)
    if os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    shutil.copystat(source, target, follow_symlinks=False)


def is_whiteout(found: os.stat_result) -> bool:
    """A device 0/0 says that the name is gone."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _merge_directory(source: Path, target: Path, made: bool) -> None:
    if not made and is_opaque(source):
        for name in os.listdir(target):
            _remove(target / name)
        _set_opaque(target)
    with os.scandir(source) as entries:
        for entry in entries:
            _merge_entry(Path(entry.path), target / entry.name)
    _copy_metadata(source, target)


def _merge_entry(source: Path, target: Path) -> None:
    found = source.lstat()
    below = _lstat(target)
    if not stat.S_ISDIR(found.st_mode):
        if below is not None:
            _remove(target)
        link_or_copy(source, target)
        return
    if below is not None and stat.S_ISDIR(below.st_mode):
        _merge_directory(source, target, made=False)
        return
    if below is not None:
        _remove(target)
    target.mkdir()
    if below is not None or is_opaque(source):
        # Where something else stood, what lies further below must stay hidden.
        _set_opaque(target)
    _merge_directory(source, target, made=True)


def is_opaque(path: Path) -> bool:
    for name in OPAQUE:
        with contextlib.suppress(OSError):
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
    return False


def _set_opaque(path: Path) -> None:
    try:
        os.setxattr(path, OPAQUE[0], b"y", follow_symlinks=False)
    except PermissionError:  # without root, overlayfs reads user.* attributes
        os.setxattr(path, OPAQUE[1], b"y", follow_symlinks=False)


def _copy_metadata(source: Path, target: Path) -> None:
    found = source.lstat()
    if os.geteuid() == 0:
        os.chown(target, found.st_uid, found.st_gid)
    for name in os.listxattr(source):
        if name not in OPAQUE and not name.startswith(("trusted.overlay.", "user.overlay.")):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
