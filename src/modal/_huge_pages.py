"""Memory for large values, asked for in huge pages.

Of the time to read 100 MB into fresh memory three quarters are page faults, one each 4 KiB. Where the kernel
gives huge pages to who asks (`madvise`, the usual setting), there is one each 2 MiB, and the memory is given
back in no time. It is a hint: where it is refused, the value is read all the same.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO, Callable, Optional

HUGE_FROM = 8 << 20  # bytes; below, the first use of ctypes costs more than it saves

_madvise: Optional[Callable[[int, int], Any]] = None  # address, size; found when it is first needed


class Reader:
    """A file for `pickle.load`, which reads each large `bytes` straight into its final place."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.readline = file.readline
        self._readinto: Callable[[Any], int] = file.readinto  # type: ignore[attr-defined]

    def readinto(self, buffer: Any) -> int:
        """The memory that pickle has made for the value has not been touched yet."""
        if memoryview(buffer).nbytes >= HUGE_FROM:
            advise(buffer)
        return self._readinto(buffer)


def advise(buffer: Any) -> None:
    """Ask for huge pages below this writable buffer, which nobody has written to yet."""
    global _madvise
    try:
        import ctypes

        if _madvise is None:
            _madvise = _find()
        size = memoryview(buffer).nbytes
        _madvise(ctypes.addressof(ctypes.c_char.from_buffer(buffer)), size)
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a C library without madvise
        _madvise = _nothing


def _find() -> Callable[[int, int], Any]:
    import ctypes
    import mmap

    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        return _nothing
    advice, page = mmap.MADV_HUGEPAGE, mmap.PAGESIZE
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int

    def call(address: int, size: int) -> Any:
        begin = (address + page - 1) // page * page
        end = (address + size) // page * page
        return function(begin, end - begin, advice)

    return call


def _nothing(address: int, size: int) -> None:
    return None
