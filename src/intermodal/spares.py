"""Second names of large values' files (`modal._spare_files`): who owns their directory removes them soon.

Their writers use them again, if that happens within seconds; a machine that has nothing to do keeps no memory for them.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from modal._protocol.home import SPARE_SUFFIX

KEPT = 5.0  # seconds
MOST = 256 << 20  # bytes of all that are kept
MEMORY_PART = 4  # a spare is at most one in so many parts of its container's memory


class _Spare(NamedTuple):
    until: float  # by the loop's clock
    path: Path
    size: int


def spare_of(value: Path) -> tuple[Path, int] | None:
    """The spare beside a value's file, and its size in bytes."""
    path = value.with_name(value.name + SPARE_SUFFIX)
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (path, found.st_size) if stat.S_ISREG(found.st_mode) else None


def remove_all(directory: Path) -> None:
    """What an earlier process did not come to remove. Blocking."""
    try:
        with os.scandir(directory) as entries:
            found = [entry.path for entry in entries if entry.name.endswith(SPARE_SUFFIX)]
    except FileNotFoundError:
        return
    _remove(found)


class Spares:
    """Those of one process's directories."""

    def __init__(self) -> None:
        self._due: deque[_Spare] = deque()
        self._total = 0
        self._timer: asyncio.TimerHandle | None = None
        self._removals: set[asyncio.Future[None]] = set()

    def keep(self, path: Path, size: int, memory: int = 0) -> None:
        """Until a few seconds from now. `memory`: the bytes that its container may use, 0 where there is no limit."""
        loop = asyncio.get_running_loop()
        if memory and size * MEMORY_PART > memory:
            self._remove_soon([path])
            return
        self._due.append(_Spare(loop.time() + KEPT, path, size))
        self._total += size
        self._look(loop.time())

    def close(self) -> None:
        """Remove all. Blocking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        _remove([one.path for one in self._due])
        self._due.clear()
        self._total = 0

    def _look(self, now: float) -> None:
        over = []
        while self._due and (self._due[0].until <= now or self._total > MOST):
            one = self._due.popleft()
            self._total -= one.size
            over.append(one.path)
        if over:
            self._remove_soon(over)
        if self._due and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(self._due[0].until, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._look(asyncio.get_running_loop().time())

    def _remove_soon(self, paths: list[Path]) -> None:
        """In a thread: milliseconds for a large one."""
        removal = asyncio.get_running_loop().run_in_executor(None, _remove, paths)
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)


def _remove(paths: Iterable[Path | str]) -> None:
    for path in paths:
        try:
            os.unlink(path)
        except OSError:  # it has become a value again
            continue
