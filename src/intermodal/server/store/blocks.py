"""Appending to files in whole blocks, past the page cache.

The last block is written again with what comes behind it. What it held already is written as it was, so a write that
is torn there harms it no more than the page cache's own writes do, which are of whole pages too.
"""

from __future__ import annotations

import errno
import logging
import os
from mmap import mmap

from intermodal.server.store.kernel_writes import KernelWrites
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
        self._kernel: KernelWrites | None
        try:
            self._kernel = KernelWrites(self._buffer)
        except OSError as error:
            _log.info("the journal waits for each write: %s", error)
            self._kernel = None
        self._under_way = (0, b"", 0)  # file, data and place of what was begun

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
        whole = self._lay_out(number, data, at)
        if not whole:
            return False
        try:
            self._write(number, self._view[:whole], at - at % BLOCK)
        except OSError as error:
            self._refused(error)
            return False
        self._written(number, data, at)
        return True

    # -- without waiting
    @property
    def descriptor(self) -> int:
        """Becomes readable when what was begun is done; -1: nothing can be begun here."""
        return -1 if self._kernel is None or not self._direct else self._kernel.descriptor

    def begin(self, number: int, data: bytes, at: int) -> bool:
        """As `put`, but `finish` says what came of it: nothing else may be written before. Raises OSError."""
        if self._kernel is None:
            return False
        whole = self._lay_out(number, data, at)
        if not whole:
            return False
        try:
            self._kernel.begin(self._direct[number], whole, at - at % BLOCK)
        except OSError as error:
            self._refused(error)
            return False
        self._under_way = (number, data, at)
        return True

    def finish(self) -> None:
        """Wait for what was begun. Raises OSError: it is not written."""
        number, data, at = self._under_way
        assert self._kernel is not None
        kept = at % BLOCK
        try:
            written = self._kernel.result()
        except OSError as error:
            self._refused(error)
            write_all(self._files[number], data, at)
            return
        if written < kept + len(data):  # a full disk, say; the rest says why
            write_all(self._files[number], data[max(0, written - kept) :], at + max(0, written - kept))
        self._written(number, data, at)

    # -- parts
    def _lay_out(self, number: int, data: bytes, at: int) -> int:
        """Bring the blocks for it into the buffer; their size, 0 where it does not fit."""
        kept = at % BLOCK
        size = kept + len(data)
        whole = -(-size // BLOCK) * BLOCK
        if whole > ROOM or not self._direct:
            return 0
        if self._end != (number, at):
            self._tail = os.pread(self._files[number], kept, at - kept)
        view = self._view
        view[:kept] = self._tail
        view[kept:size] = data
        view[size:whole] = self._zeros[: whole - size]
        return whole

    def _written(self, number: int, data: bytes, at: int) -> None:
        """Note what is in the last block now."""
        size = at % BLOCK + len(data)
        self._tail = bytes(self._view[size - size % BLOCK : size])
        self._end = (number, at + len(data))

    def _refused(self, error: OSError) -> None:
        """Do without it, where the file system cannot do it; else raises the error."""
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise error
        _log.info("the journal is written by way of the page cache: %s", error)
        self._close_direct()

    def _write(self, number: int, view: memoryview, at: int) -> None:
        written = os.pwrite(self._direct[number], view, at)
        if written < len(view):  # a full disk, say; the rest says why
            write_all(self._files[number], view[written:], at + written)

    def close(self) -> None:
        """The files themselves are their owner's."""
        if self._kernel is not None:
            self._kernel.close()
        self._close_direct()

    def _close_direct(self) -> None:
        direct, self._direct = self._direct, []
        for file in direct:
            os.close(file)
