"""Large values meet memory that nobody has used for a while: how to fill it at the least cost.

Of the time to read 100 MB into fresh memory three quarters are page faults, one each 4 KiB. Where the kernel gives
huge pages to who asks (`madvise`, the usual setting), there is one each 2 MiB, and the memory is given back in no
time; the page cache does the same for files (large folios). But huge pages may be dear: where memory is fragmented,
and in a virtual machine that gives what it does not use back to its host, which has to find it anew: ten times as
long as small pages then, which nobody takes back. So each step is timed. Half of a value may be dear, for what
was found anew is cheap for the next one that comes soon; then the rest is filled with small pages.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, BinaryIO, Callable, Optional

from modal._mapped_bytes import fill

LARGE = 8 << 20  # bytes; below, the first use of ctypes costs more than it saves
STEP = 4 << 20  # bytes that are filled and timed at once
DEAR = 0.6e-9  # seconds of processor time a byte, above which huge pages are; usual are 0.15e-9 to 0.25e-9
DEAR_PART = 2  # one in so many bytes may be dear
SMALL = 16 << 10  # bytes of a write that gets small pages

_madvise: Optional[Callable[[int, int, bool], Any]] = None  # address, size, huge or not; found when first needed
_now = getattr(time, "thread_time", time.process_time)  # that others use the processor too is no sign


class Reader:
    """A file for `pickle.load`, which reads each large `bytes` straight into its final place, or maps it there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.read = file.read
        self.readline = file.readline
        self._readinto: Callable[[Any], int] = file.readinto  # type: ignore[attr-defined]

    def readinto(self, buffer: Any) -> int:
        """The memory that pickle has made for the value has not been touched yet."""
        view = memoryview(buffer)
        if view.nbytes < LARGE:
            return self._readinto(buffer)
        if fill(view, self._file):
            return view.nbytes
        advise(view, huge=True)
        at, dear, most = 0, 0, view.nbytes // DEAR_PART
        while at < view.nbytes:
            end = at + STEP if dear <= most else view.nbytes
            began = _now()
            got = self._readinto(view[at:end])
            if not got:
                break
            at += got
            if dear <= most and _now() - began > DEAR * got:
                dear += got
                if dear > most:
                    advise(view[at:], huge=False)
        return at


def write(fd: int, data: memoryview) -> None:
    """All of a large piece, to the end of a new file."""
    at, dear, most = 0, 0, data.nbytes // DEAR_PART
    while at < data.nbytes:
        began = _now()
        written = os.write(fd, data[at : at + (STEP if dear <= most else SMALL)])
        at += written
        if dear <= most and _now() - began > DEAR * written:
            dear += written


def advise(view: memoryview, *, huge: bool) -> None:
    """Ask for huge pages below this writable buffer, or for small ones; nobody has written to it yet."""
    global _madvise
    if not view.nbytes:
        return
    try:
        import ctypes

        if _madvise is None:
            _madvise = _find()
        _madvise(ctypes.addressof(ctypes.c_char.from_buffer(view)), view.nbytes, huge)
    except (ImportError, OSError, AttributeError):  # a Python without ctypes, a C library without madvise
        _madvise = _nothing


def _find() -> Callable[[int, int, bool], Any]:
    import ctypes
    import mmap

    if not sys.platform.startswith("linux") or sys.implementation.name != "cpython":
        return _nothing
    page = mmap.PAGESIZE
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int

    def call(address: int, size: int, huge: bool) -> Any:
        begin = (address + page - 1) // page * page
        end = (address + size) // page * page
        return function(begin, max(0, end - begin), mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)

    return call


def _nothing(_address: int, _size: int, _huge: bool) -> None:
    return None
