"""The disk below the state directory: when it has something for good, and what it means when it refuses."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from modal._protocol.errors import Code, Fault

_libc = ctypes.CDLL(None, use_errno=True)


def sync(path: str | Path) -> None:
    """Wait until the disk has a file's content, or a directory's names. Blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(directory: Path) -> None:
    """Wait until the disk has all that was written to this directory's file system. Blocking. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def disk_fault(error: OSError, path: Path) -> Fault:
    """The fault that a failure to write below the state directory becomes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(Code.EXHAUSTED, f"no space is left on the disk that holds {path.parent}: free some and try again")
    return Fault(Code.INTERNAL, f"cannot write {path}: {error.strerror or error}")
