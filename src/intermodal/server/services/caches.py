"""What builds have downloaded and keep outside of layers: how much it is, and which of it goes first.

Nothing is lost with a cache but time: what is needed again is fetched again.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from intermodal.home import Home
from intermodal.server.services.cache_parts import Part, alone_in, delete, parts_of
from intermodal.server.services.status import directory_size
from modal._protocol.messages.image import CacheInfo

DOOMED = ".gone-"  # names of caches that are being deleted
_WHAT = {
    "uv-cache": "Python packages, by uv",
    "pip-cache": "Python packages, by pip",
    "uv-versions": "other versions of uv",
    "apt-": "Debian packages",
    "conda-cache": "conda packages",
    "poetry-": "Poetry",
    "dockerfile/": "RUN --mount=type=cache",
    "registry/pulls/": "layers of a pull that was interrupted",
}
_KEPT = ("registry/tags", "pythons")  # notes of a few bytes that images depend on


class Caches:
    def __init__(self, home: Home) -> None:
        self._home = home

    async def all(self) -> list[CacheInfo]:
        """Most recently used first."""
        return await asyncio.to_thread(self._all)

    async def prune(self, unused_for: float, most: int) -> tuple[list[CacheInfo], int]:
        """Delete those that were not used for so many seconds, least recently used first, until all take at most
        `most` bytes (0: all of them). Of a cache that is used, parts go (`cache_parts`). Returns those that are gone,
        wholly or, with `parts`, as many of their parts and these bytes; and the bytes that this freed.
        """
        return await asyncio.to_thread(self._prune, unused_for, most)

    def _all(self) -> list[CacheInfo]:
        found = []
        for name, path in self._places():
            try:
                used_at = path.stat().st_mtime
            except OSError:
                continue  # it went meanwhile
            found.append(CacheInfo(name, _what(name), directory_size(path), used_at))
        return sorted(found, key=lambda one: one.used_at, reverse=True)

    def _places(self) -> Iterator[tuple[str, Path]]:
        """Each cache by its name below the directory of caches."""
        root = self._home.cache
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.name.startswith(DOOMED):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name in ("dockerfile", "registry"):
                inner = path if path.name == "dockerfile" else path / "pulls"
                below = sorted(inner.iterdir()) if inner.is_dir() else []
                yield from ((str(one.relative_to(root)), one) for one in below if one.is_dir())
            elif path.is_dir() and path.name not in _KEPT:
                yield path.name, path

    def _prune(self, unused_for: float, most: int) -> tuple[list[CacheInfo], int]:
        caches, limit = self._all(), time.time() - unused_for
        total = sum(one.size for one in caches)
        gone: dict[str, CacheInfo] = {}
        for used_at, one, part in sorted(self._doomed(caches, limit, most), key=lambda found: found[0]):
            if used_at > limit or (most and total <= most):
                break
            known = gone.get(one.name)
            before, parts = (known.size, known.parts) if known is not None else (0, 0)
            if part is None:
                if self._delete(self._home.cache / one.name):
                    gone[one.name] = one
                    total -= one.size - before
            elif self._delete_part(one.name, part):
                gone[one.name] = CacheInfo(one.name, one.what, before + part.size, one.used_at, parts + 1)
                total -= part.size
        return list(gone.values()), sum(one.size for one in gone.values())

    def _doomed(
        self, caches: list[CacheInfo], limit: float, most: int
    ) -> Iterator[tuple[float, CacheInfo, Part | None]]:
        """What could go, and when it was last used: caches as wholes (None), and before them their parts."""
        for one in caches:
            if most or one.used_at > limit:  # else all of it goes in any case
                for part in parts_of(self._home.cache / one.name, one.used_at):
                    yield part.used_at, one, part
            yield one.used_at, one, None

    def _delete_part(self, name: str, part: Part) -> bool:
        with alone_in(self._home.cache / name) as alone:
            return alone and delete(part)

    def _delete(self, path: Path) -> bool:
        if _is_locked(path):
            return False
        doomed = self._home.cache / f"{DOOMED}{os.getpid()}-{time.monotonic_ns()}"
        try:
            path.rename(doomed)  # whoever uses it meanwhile makes a new one
        except OSError:
            return False
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        return True


def _what(name: str) -> str:
    return next((what for start, what in _WHAT.items() if name.startswith(start)), "")


def _is_locked(path: Path) -> bool:
    """Whether a pull is filling it now."""
    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
