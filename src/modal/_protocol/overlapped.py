"""Copies of large files while what has been copied is hashed, so early that a later fsync finds little to do.

Within a file system the kernel copies (or clones), which costs half of reading and writing, and what is hashed is read
from the copy: nobody else has it, so its hash is right even where the original changes meanwhile. Elsewhere a thread
writes what was read and hashed.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import Any, Callable, Iterator, Optional, Tuple

from modal._protocol.writing import write_all

AHEAD = 4  # parts that are read, hashed or written at the same time
STEP = 16 << 20  # bytes after which the disk is told to begin
PORTION = 4 << 20  # bytes that the kernel copies at once
KERNEL_AHEAD = 16  # portions that are copied and not hashed yet
_BEGIN_WRITING = 2  # SYNC_FILE_RANGE_WRITE


class Writer:
    """A thread that writes to `fd` what `put` gives it, in that order. Leaving the block waits for it."""

    def __init__(self, fd: int, size: int) -> None:
        """`size`: of a part, in bytes."""
        self._fd = fd
        self._parts: SimpleQueue[Optional[Tuple[memoryview, int, int]]] = SimpleQueue()
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(AHEAD):
            self._free.put(memoryview(bytearray(size)))
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="modal-copy", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def room(self) -> memoryview:
        """Where the next part may be read to. Raises OSError where an earlier part could not be written."""
        free = self._free.get()
        if self._error is not None:
            raise self._error
        return free

    def put(self, part: memoryview, size: int, offset: int) -> None:
        """Write the first `size` bytes of what `room` gave."""
        self._parts.put((part, size, offset))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._parts.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        begin_writing = _sync_file_range()
        begun = 0
        while True:
            item = self._parts.get()
            if item is None:
                return
            part, size, offset = item
            if self._error is None:
                try:
                    write_all(self._fd, part[:size], offset)
                    end = offset + size
                    if begin_writing is not None and end - begun >= STEP:
                        begin_writing(self._fd, begun, end - begun, _BEGIN_WRITING)
                        begun = end
                except OSError as error:
                    self._error = error
            self._free.put(part)


class KernelCopy:
    """A thread in which the kernel copies ranges of a file to the same places of another. Leaving the block ends it."""

    def __init__(self, fd: int, out: int, ranges: Iterator[Tuple[int, int]]) -> None:
        """`ranges`: from where to where, with what lies between them left as a hole."""
        self._fd, self._out, self._ranges = fd, out, ranges
        self._copied: SimpleQueue[Optional[Tuple[int, int]]] = SimpleQueue()
        self._ahead = threading.Semaphore(KERNEL_AHEAD)
        self._error: Optional[BaseException] = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="modal-copy", daemon=True)

    def __enter__(self) -> KernelCopy:
        self._thread.start()
        return self

    def copied(self) -> Iterator[Tuple[int, int]]:
        """Each part that is in the other file: where it begins and ends. Raises OSError."""
        while True:
            part = self._copied.get()
            if part is None:
                if self._error is not None:
                    raise self._error
                return
            yield part
            self._ahead.release()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._over = True
        self._ahead.release()
        self._thread.join()

    def _run(self) -> None:
        begin_writing = _sync_file_range()
        begun = 0
        try:
            for offset, stop in self._ranges:
                while offset < stop:
                    self._ahead.acquire()
                    if self._over:
                        return
                    size = os.copy_file_range(self._fd, self._out, min(PORTION, stop - offset), offset, offset)
                    if not size:  # it was shortened meanwhile
                        return
                    self._copied.put((offset, offset + size))
                    offset += size
                    if begin_writing is not None and offset - begun >= STEP:
                        begin_writing(self._out, begun, offset - begun, _BEGIN_WRITING)
                        begun = offset
        except BaseException as error:
            self._error = error
        finally:
            self._copied.put(None)


def _sync_file_range() -> Optional[Callable[[int, int, int, int], int]]:
    """The system call of that name, where there is one."""
    try:
        import ctypes

        found: Any = ctypes.CDLL(None).sync_file_range
    except (ImportError, OSError, AttributeError, TypeError):  # not on this system
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call: Callable[[int, int, int, int], int] = found
    return call
