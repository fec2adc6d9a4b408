"""What a disk may hold after the power has gone: states made of what `power_disk` has noted.

What was written before the last flush is there. Of what was written after it, any part may be: none, all, some of the
writes, some of their sectors. More a disk with a cache does not promise, and less it may not do.
"""

from __future__ import annotations

import bisect
import os
import random
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.power_disk import RECORD

SECTOR = 512  # bytes: what a disk writes wholly or not at all
LOSSES = ("all", "none", "writes", "sectors")  # what is lost of what was written since the last flush


class _Write(NamedTuple):
    at: int  # place on the disk
    size: int  # 0: a flush
    where: int  # of the bytes, in the log


class Recording:
    """Everything that was done to a disk. `base` is what it held before; it is changed as states are made."""

    def __init__(self, base: Path, log: Path) -> None:
        self._base = base
        self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        self._writes = self._read()
        self._flushes = [number for number, write in enumerate(self._writes) if not write.size]
        self._done = 0  # records that `base` has

    def __len__(self) -> int:
        return len(self._writes)

    @property
    def flushes(self) -> int:
        return len(self._flushes)

    def close(self) -> None:
        os.close(self._log)

    def _read(self) -> list[_Write]:
        found, place = [], 0
        end = os.fstat(self._log).st_size
        while place + RECORD.size <= end:
            at, size = RECORD.unpack(os.pread(self._log, RECORD.size, place))
            found.append(_Write(at, size, place + RECORD.size))
            place += RECORD.size + size
        return found

    def unflushed(self, moment: int) -> int:
        """How many writes a disk may lose that loses its power after this many records."""
        return moment - self._flushed(moment)

    def _flushed(self, moment: int) -> int:
        before = bisect.bisect_left(self._flushes, moment)
        return self._flushes[before - 1] + 1 if before else 0

    def make(self, target: Path, moment: int, loss: str, chance: random.Random) -> None:
        """The disk after so many records (never fewer than the last time), in a file."""
        flushed = self._flushed(moment)
        base = os.open(self._base, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for write in self._writes[self._done : flushed]:
                os.pwrite(base, self._content(write), write.at)
            self._done = max(self._done, flushed)
        finally:
            os.close(base)
        target.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self._base, target], check=True)
        disk = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            kept = chance.random()
            for write in self._writes[flushed:moment]:
                if loss == "none" or (loss == "writes" and chance.random() < kept):
                    os.pwrite(disk, self._content(write), write.at)
                elif loss == "sectors":
                    content = self._content(write)
                    for part in range(0, write.size, SECTOR):
                        if chance.random() < kept:
                            os.pwrite(disk, content[part : part + SECTOR], write.at + part)
        finally:
            os.close(disk)

    def _content(self, write: _Write) -> bytes:
        return os.pread(self._log, write.size, write.where)
