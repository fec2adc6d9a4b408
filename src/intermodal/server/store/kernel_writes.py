"""Writes that the kernel carries out while this process goes on (Linux's `io_submit`), told of by a descriptor.

So it is where the write goes past the page cache to blocks that the file has already; any other is done before
`begin` returns, which is no harm but no gain. The C library has no functions for this; a thread that waits for the disk
in our stead would cost two changes of threads, more than the rest of such a write.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from mmap import mmap

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}  # io_setup, io_destroy, io_getevents, io_submit
_REQUEST = struct.Struct("=QIIHhIQQqQII")  # struct iocb
_EVENT = struct.Struct("=QQqq")  # struct io_event
_PWRITE = 1
_TELL = 1  # IOCB_FLAG_RESFD: say it to a descriptor


class KernelWrites:
    """One write at a time, of what `buffer` begins with. Raises OSError where the system has no such thing."""

    def __init__(self, buffer: mmap) -> None:
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None:
            raise OSError(f"unknown numbers of system calls: {platform.machine()}")
        setup, self._destroy, self._getevents, self._submit = numbers
        self._call = ctypes.PyDLL(None, use_errno=True).syscall  # keeps the GIL: these calls hardly wait
        self._call.restype = ctypes.c_long
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._context = ctypes.c_ulong(0)
        self._checked(self._call(setup, 1, ctypes.byref(self._context)))
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # readable when the write is done
        self._request = ctypes.create_string_buffer(_REQUEST.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(_EVENT.size)

    def begin(self, file: int, size: int, at: int) -> None:
        """Write `size` bytes of the buffer to this place of a file. Raises OSError: nothing is under way."""
        _REQUEST.pack_into(
            self._request, 0, 0, 0, 0, _PWRITE, 0, file, self._address, size, at, 0, _TELL, self.descriptor
        )
        self._checked(self._call(self._submit, self._context, 1, self._requests))

    def result(self) -> int:
        """How many bytes were written; waits for it. Raises OSError."""
        while True:
            try:
                self._checked(self._call(self._getevents, self._context, 1, 1, self._event, None))
                break
            except InterruptedError:
                continue
        os.eventfd_read(self.descriptor)
        written: int = _EVENT.unpack(self._event)[2]
        if written < 0:
            raise OSError(-written, os.strerror(-written))
        return written

    def close(self) -> None:
        """Waits for a write that is under way. Idempotent."""
        if self.descriptor >= 0:
            self._call(self._destroy, self._context)
            os.close(self.descriptor)
            self.descriptor = -1

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return result
