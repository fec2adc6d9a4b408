"""Appending to files in whole blocks, past the page cache.

The last block is written again with what comes behind it. What it held already is written as it was, so a write that
is torn there harms it no more than the page cache's own writes do, which are of whole pages too.
"""

from __future__ import annotations

import errno
import logging
import os
from mmap import mmap

from modal._protocol.writing import write_all

BLOCK = 4096  # bytes: as much as any disk's own block
ROOM = 512 << 10  # bytes that are written at once; larger pieces are no quicker this way
_log = logging.getLogger(__name__)


class Blocks:
    """Writes to files that have their size already. `files` are opened for reading too."""

    def __init__(self, files: list[int], direct: list[int]) -> None:
        self._files = files
        self._direct = direct
        self._buffer = mmap(-1, ROOM)  # begins at a page, as these writes must
        self._view = memoryview(self._buffer)
        self._zeros = bytes(BLOCK)
        self._end = (-1, 0)  # file, and the place up to which `_tail` goes
        self._tail = b""  # what is written of the last block

    @classmethod
    def of(cls, files: list[int]) -> Blocks | None:
        """None where the file system cannot do this."""
        direct: list[int] = []
        try:
            for file in files:
                flags = os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC
                direct.append(os.open(f"/proc/self/fd/{file}", flags))
        except OSError:
            for file in direct:
                os.close(file)
            return None
        return cls(files, direct)

    def put(self, number: int, data: bytes, at: int) -> bool:
        """Write it to that file, at this place; False: it has to be done in another way. Raises OSError."""
        kept = at % BLOCK
        size = kept + len(data)
        whole = -(-size // BLOCK) * BLOCK
        if whole > ROOM or not self._direct:
            return False
        if self._end != (number, at):
            self._tail = os.pread(self._files[number], kept, at - kept)
        view = self._view
        view[:kept] = self._tail
        view[kept:size] = data
        view[size:whole] = self._zeros[: whole - size]
        try:
            self._write(number, view[:whole], at - kept)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _log.info("the journal is written by way of the page cache: %s", error)
            self.close()
            return False
        self._tail = bytes(view[size - size % BLOCK : size])
        self._end = (number, at + len(data))
        return True

    def _write(self, number: int, view: memoryview, at: int) -> None:
        written = os.pwrite(self._direct[number], view, at)
        if written < len(view):  # a full disk, say; the rest says why
            write_all(self._files[number], view[written:], at + written)

    def close(self) -> None:
        """The files themselves are their owner's."""
        direct, self._direct = self._direct, []
        for file in direct:
            os.close(file)
