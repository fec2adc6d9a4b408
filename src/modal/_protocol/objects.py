"""The object store of volumes on disk, for the peers that share it: contents by their SHA-256.

`objects/ab/abcd…` holds one content and never changes. It appears whole, by a rename, after its hash was taken of the
very bytes that were written. Whoever refers to it makes it durable first (the server does, before a version names it).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from functools import partial
from typing import Callable, Iterator, Optional, Tuple

from modal._protocol.writing import write_all

CHUNK = 1 << 20  # bytes; smaller files are read whole
AT_ONCE = 64 << 20  # bytes that the kernel copies in one call
OVERLAPPED_FROM = 16 << 20  # bytes of a file that is worth a thread
INCOMING = ".incoming"  # below the store: what is not whole yet, as `<pid>-<number>`
_ZEROS = bytes(CHUNK)
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_numbers = itertools.count()


def object_path(directory: str, digest: str) -> str:
    """Where the content with this SHA-256 lies, or will lie."""
    return f"{directory}/{digest[:2]}/{digest}"


def has_object(directory: str, digest: str) -> bool:
    """Whether the store holds the content."""
    return os.path.exists(object_path(directory, digest))


Told = Optional[Callable[[int], object]]  # is told how many bytes have been dealt with


def place(fd: int, directory: str, mode: int, mtime: int, told: Told = None) -> Tuple[str, int]:
    """Put what `fd` reads, from its start, into the store; SHA-256 and size.

    A new object gets these permission bits (readable for its owner in any case) and time (nanoseconds), so that it can
    be linked into trees as it is. Holes stay holes. What `told` raises ends it. Raises OSError.
    """
    first = os.pread(fd, CHUNK, 0)
    if len(first) < CHUNK:
        return place_bytes(first, directory, mode, mtime), len(first)
    temporary, out = _open_temporary(directory)
    try:
        try:
            digest, size = _copy(fd, out, told)
            _finish(out, mode, mtime)
        finally:
            os.close(out)
        _settle(temporary, object_path(directory, digest))
    except BaseException:
        _discard(temporary)
        raise
    return digest, size


def place_bytes(content: bytes, directory: str, mode: int, mtime: int) -> str:
    """As `place`, for what is in memory."""
    digest = hashlib.sha256(content).hexdigest()
    target = object_path(directory, digest)
    if os.path.exists(target):
        return digest
    temporary, out = _open_temporary(directory)
    try:
        try:
            write_all(out, content)
            _finish(out, mode, mtime)
        finally:
            os.close(out)
        _settle(temporary, target)
    except BaseException:
        _discard(temporary)
        raise
    return digest


def hash_of(fd: int) -> Tuple[str, int]:
    """SHA-256 and size of what `fd` reads, from its start. Holes cost no reading."""
    return _copy(fd, -1)


def copy_file(source: str, target: str, told: Told = None) -> None:
    """Copy a file's content: by the kernel (a clone where the file system can), holes kept. Raises OSError."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _copy_by_kernel(fd, out, told)
        finally:
            os.close(out)
    finally:
        os.close(fd)


def _copy_by_kernel(fd: int, out: int, told: Told) -> None:
    copy_range = getattr(os, "copy_file_range", None)
    offset, end = 0, os.fstat(fd).st_size
    while offset < end:
        offset = _seek_data(fd, offset, end)
        stop = _seek_hole(fd, offset, end)
        while offset < stop:
            copied = 0
            if copy_range is not None:
                try:
                    copied = copy_range(fd, out, min(AT_ONCE, stop - offset), offset, offset)
                except OSError:  # across file systems, or not on this one
                    copy_range = None
            if not copied:
                chunk = os.pread(fd, min(CHUNK, stop - offset), offset)
                if not chunk:
                    return
                write_all(out, chunk, offset)
                copied = len(chunk)
            offset += copied
            if told is not None:
                told(offset)
    os.ftruncate(out, end)


def _copy(fd: int, out: int, told: Told = None) -> Tuple[str, int]:
    end = os.fstat(fd).st_size
    if out >= 0 and end >= OVERLAPPED_FROM:
        from modal._protocol.overlapped import Writer

        found = _copy_and_hash(fd, out, end, told)
        if found is not None:
            return found
        with Writer(out, CHUNK) as writer:
            copied = _read(fd, end, writer.room, writer.put, told)
    else:
        part = memoryview(bytearray(CHUNK))
        copied = _read(fd, end, lambda: part, partial(_put, out) if out >= 0 else None, told)
    if out >= 0:
        os.ftruncate(out, copied[1])
    return copied


def _copy_and_hash(fd: int, out: int, end: int, told: Told) -> Optional[Tuple[str, int]]:
    """By the kernel; None where it cannot, as between file systems, and nothing was written."""
    from modal._protocol.overlapped import KernelCopy

    if not hasattr(os, "copy_file_range"):
        return None
    digest = hashlib.sha256()
    room = memoryview(bytearray(CHUNK))
    offset = 0
    with KernelCopy(fd, out, _data(fd, end)) as copy:
        try:
            for start, stop in copy.copied():
                _hash_zeros(digest, start - offset)
                offset = start
                while offset < stop:
                    size = _read_into(out, room[: min(CHUNK, stop - offset)], offset)
                    digest.update(room[:size])
                    offset += size
                    if told is not None:
                        told(offset)
        except OSError as error:
            if offset or error.errno not in _NO_KERNEL_COPY:
                raise
            return None
    end = min(end, os.fstat(fd).st_size)
    if offset < end and _seek_data(fd, offset, end) >= end:  # it ends with a hole
        _hash_zeros(digest, end - offset)
        offset = end
    os.ftruncate(out, offset)
    return digest.hexdigest(), offset


def _data(fd: int, end: int) -> Iterator[Tuple[int, int]]:
    """The parts of a file that are no holes."""
    offset = 0
    while offset < end:
        start = _seek_data(fd, offset, end)
        offset = _seek_hole(fd, start, end)
        if start < offset:
            yield start, offset


def _hash_zeros(digest: hashlib._Hash, count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[: min(CHUNK, count)])
        count -= CHUNK


def _put(out: int, part: memoryview, size: int, offset: int) -> None:
    write_all(out, part[:size], offset)


def _read(
    fd: int,
    end: int,
    room: Callable[[], memoryview],
    write: Optional[Callable[[memoryview, int, int], None]],
    told: Told,
) -> Tuple[str, int]:
    digest = hashlib.sha256()
    offset = 0
    while offset < end:
        start = _seek_data(fd, offset, end)
        _hash_zeros(digest, start - offset)  # a hole
        offset = start
        stop = _seek_hole(fd, offset, end)
        while offset < stop:
            part = room()
            size = _read_into(fd, part[: min(CHUNK, stop - offset)], offset)
            if not size:  # it was shortened meanwhile
                end = stop = offset
                break
            digest.update(part[:size])
            if write is not None:
                write(part, size, offset)
            offset += size
            if told is not None:
                told(offset)
    return digest.hexdigest(), offset


def _read_into(fd: int, part: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [part], offset)
    data = os.pread(fd, len(part), offset)
    part[: len(data)] = data
    return len(data)


def _seek_data(fd: int, offset: int, end: int) -> int:
    try:
        return min(os.lseek(fd, offset, os.SEEK_DATA), end)
    except AttributeError:  # not on this system
        return offset
    except OSError:  # nothing but a hole up to the end
        return end if os.fstat(fd).st_size >= end else offset


def _seek_hole(fd: int, offset: int, end: int) -> int:
    try:
        return min(os.lseek(fd, offset, os.SEEK_HOLE), end)
    except (AttributeError, OSError):
        return end


def _open_temporary(directory: str) -> Tuple[str, int]:
    path = f"{directory}/{INCOMING}/{os.getpid()}-{next(_numbers)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return path, os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path, os.open(path, flags, 0o600)


def _finish(out: int, mode: int, mtime: int) -> None:
    os.fchmod(out, (mode & 0o7777) | 0o400)
    os.utime(out, ns=(mtime, mtime))


def _settle(temporary: str, target: str) -> None:
    """Under its name. What is there already is the same, and stays: trees may be linked to it."""
    if os.path.exists(target):
        os.unlink(temporary)
        return
    try:
        os.rename(temporary, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(temporary, target)


def _discard(temporary: str) -> None:
    try:
        os.unlink(temporary)
    except OSError:
        pass
