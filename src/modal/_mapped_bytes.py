"""A large `bytes` whose memory is the file that it comes from: nothing is copied, and no new memory is needed.

Pickle makes the object first, untouched, and asks for its content to be read into it. Where that memory is a mapping of
the C library's own (glibc: a header of 16 bytes at the start of a page, then Python's object), its whole pages are put
in place by a private mapping of the file, whose content stands at the same place within its pages (`padding` sees to
it). Giving the object's memory back unmaps them, as it does any. 100 MB take 0.1 ms and 5 ms when they are first looked
at, instead of 15 to 200 ms. Whatever is not exactly as it must be is copied.

What is mapped keeps its file's space on the disk and counts as the page cache of who wrote it, so only `MOST` is.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any, BinaryIO, NamedTuple, Optional

MOST = 256 << 20  # bytes of values that a process maps at the same time
PAGE = mmap.PAGESIZE
CHUNK_HEADER = 16  # bytes; glibc's, in front of each piece of memory
OFFSET = CHUNK_HEADER + sys.getsizeof(b"") - 1  # of the content, in a mapping of glibc's
_MAPPED = 2  # glibc's mark of a piece that is a mapping of its own; the lowest three bits of a size are marks
_NOISE = 6  # bytes of `padding` that must be there
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2


class _Calls(NamedTuple):
    mmap: Any
    mremap: Any
    munmap: Any


_calls: Optional[_Calls] = None  # found when first needed


def padding(position: int) -> bytes:
    """A piece of pickle that has no effect, so long that what stands at `position` comes to stand as `OFFSET` does."""
    length = (OFFSET - position - _NOISE) % PAGE
    return b"B" + length.to_bytes(4, "little") + bytes(length) + b"0"  # push these bytes; pop them


def fill(view: memoryview, file: BinaryIO) -> bool:
    """Let the memory of a new `bytes` be the file's from its position on. False where it must be read instead."""
    try:
        import ctypes
    except ImportError:
        return False
    at, size = file.tell(), view.nbytes
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    if at % PAGE != OFFSET or not _is_own_mapping(address, size):
        return False
    if os.fstat(file.fileno()).st_size < at + size or mapped() + size > MOST:
        return False
    head = PAGE - OFFSET
    length = (address + size) // PAGE * PAGE - (address + head)
    if not _place(file.fileno(), at + head, address + head, length):
        return False
    _read(file, view[:head])
    file.seek(at + head + length)
    _read(file, view[head + length :])
    return True


def mapped() -> int:
    """Bytes of values that this process has mapped, as `bytes` or as buffers."""
    total = 0
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            if b"/vl-" in line:
                begin, end = line.split(b" ", 1)[0].split(b"-")
                total += int(end, 16) - int(begin, 16)
    return total


def _is_own_mapping(address: int, size: int) -> bool:
    """Whether glibc has made a mapping for this `bytes` alone."""
    import ctypes

    if address % PAGE != OFFSET or not (sys.platform.startswith("linux") and sys.implementation.name == "cpython"):
        return False
    word = ctypes.sizeof(ctypes.c_size_t)
    if word != CHUNK_HEADER // 2:
        return False
    before = ctypes.c_size_t.from_address(address - OFFSET).value
    own = ctypes.c_size_t.from_address(address - OFFSET + word).value
    return not before and own & 7 == _MAPPED and 0 <= (own & ~7) - OFFSET - size <= PAGE + CHUNK_HEADER


def _place(fd: int, offset: int, address: int, length: int) -> bool:
    """Put a private mapping of the file there. Made elsewhere first: so where it cannot be, nothing has changed."""
    import ctypes

    global _calls
    if _calls is None:
        _calls = _find()
    protection, private = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE
    failed = ctypes.c_void_p(-1).value
    made = _calls.mmap(None, length, protection, private, fd, offset)
    if made == failed:
        return False
    if _calls.mremap(made, length, length, _MREMAP_MAYMOVE | _MREMAP_FIXED, address) == address:
        return True
    _calls.munmap(made, length)
    fixed = 0x10
    if _calls.mmap(address, length, protection, private | mmap.MAP_ANONYMOUS | fixed, -1, 0) != address:
        raise MemoryError("there is no memory for a large value")  # the object has a hole; it is given back unseen
    return False


def _find() -> _Calls:
    import ctypes

    library = ctypes.CDLL(None)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_long]
    library.mremap.argtypes = [pointer, size, size, number, pointer]
    library.munmap.argtypes = [pointer, size]
    library.mmap.restype = library.mremap.restype = pointer
    return _Calls(library.mmap, library.mremap, library.munmap)


def _read(file: BinaryIO, view: memoryview) -> None:
    while view.nbytes:
        got = file.readinto(view)  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the value is cut off")
        view = view[got:]
