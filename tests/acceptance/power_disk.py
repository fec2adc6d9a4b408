"""A disk that remembers: a file in user space (FUSE) for a loop device; every write and flush is noted in its order.

    python power_disk.py IMAGE LOG COUNT PLACE

It shows IMAGE at PLACE, which is a file. What is written there goes to the end of LOG as well, as RECORD and then the
bytes; a flush is a RECORD without bytes. COUNT is a file of eight bytes: how many records there are, for who maps it.
One request is answered after the other, so what a file system has been told to be written stands before the flush
that it asks for next. Needs nothing but the kernel; ends when PLACE is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import sys
import time

RECORD = struct.Struct("<QQ")  # place on the disk, size; 0 and 0 for a flush
COUNT = struct.Struct("<Q")

_MOST = 1 << 20  # bytes of one request
_IN = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_INIT = struct.Struct("<IIIIHHIIHHI28x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_READ = struct.Struct("<QQIIQII")
_VALID = 3600

_FORGET, _GETATTR, _SETATTR, _OPEN, _READING, _WRITING, _STATFS, _RELEASE, _FSYNC = 2, 3, 4, 14, 15, 16, 17, 18, 20
_FLUSH, _INITIALISE, _INTERRUPT, _DESTROY, _FORGETS = 25, 26, 36, 38, 42
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_DIRECT = 1  # past the page cache: what is asked of the file comes here at once


def mount(place: str) -> int:
    """The kernel's end of it."""
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fuse},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,max_read={_MOST}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"power-disk", place.encode(), b"fuse", 0, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), place)
    return fuse


class Disk:
    def __init__(self, image: str, log: str, count: str) -> None:
        self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.fstat(self._image).st_size
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(count, "r+b") as file:
            self._count = mmap.mmap(file.fileno(), COUNT.size)
        self._records = 0
        self._now = int(time.time())

    def answer(self, kind: int, body: memoryview) -> bytes | int | None:
        """What is said to a request: bytes, or an error's number; None: nothing."""
        if kind == _READING:
            _handle, at, size, *_ = _READ.unpack_from(body)
            return os.pread(self._image, size, at)
        if kind == _WRITING:
            _handle, at, size, *_ = _READ.unpack_from(body)
            self._write(at, body[_READ.size : _READ.size + size])
            return struct.pack("<II", size, 0)
        if kind == _FSYNC:
            self._record(0, b"")
            return b""
        if kind in (_GETATTR, _SETATTR):
            return struct.pack("<QII", _VALID, 0, 0) + self._attributes()
        if kind == _OPEN:
            return struct.pack("<QIi", 1, _DIRECT, 0)
        if kind == _INITIALISE:
            major, minor, ahead, _flags = struct.unpack_from("<IIII", body)
            flags = _BIG_WRITES | _MAX_PAGES
            return _INIT.pack(major, min(minor, 31), ahead, flags, 16, 12, _MOST, 1, _MOST // 4096, 0, 0)
        if kind == _STATFS:
            return struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 20, 1 << 20, 1, 1, 4096, 255, 4096, 0)
        if kind in (_FLUSH, _RELEASE, _DESTROY):
            return b""
        if kind in (_FORGET, _FORGETS, _INTERRUPT):
            return None
        return errno.ENOSYS

    def _attributes(self) -> bytes:
        now = self._now
        return _ATTR.pack(
            1, self._size, self._size // 512, now, now, now, 0, 0, 0, stat.S_IFREG | 0o600, 1, 0, 0, 0, 4096, 0
        )

    def _write(self, at: int, data: memoryview) -> None:
        os.pwrite(self._image, data, at)
        self._record(at, data)

    def _record(self, at: int, data: bytes | memoryview) -> None:
        os.writev(self._log, [RECORD.pack(at, len(data)), data])
        self._records += 1
        COUNT.pack_into(self._count, 0, self._records)


def serve(fuse: int, disk: Disk) -> None:
    """Until the file is unmounted."""
    room = memoryview(bytearray(_MOST + 65536))
    while True:
        try:
            size = os.readv(fuse, [room])
        except OSError as error:
            if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                continue
            if error.errno == errno.ENODEV:
                return
            raise
        _length, kind, unique, *_ = _IN.unpack_from(room)
        try:
            answer = disk.answer(kind, room[_IN.size : size])
        except OSError as error:
            answer = error.errno or errno.EIO
        if answer is None:
            continue
        data, failure = (answer, 0) if isinstance(answer, bytes) else (b"", -answer)
        try:
            os.writev(fuse, [_OUT.pack(_OUT.size + len(data), failure, unique), data])
        except OSError as error:
            if error.errno != errno.ENOENT:  # nobody waits for it any more
                raise


def main() -> None:
    image, log, count, place = sys.argv[1:]
    disk = Disk(image, log, count)
    serve(mount(place), disk)


if __name__ == "__main__":
    main()
