"""The disk below the state directory: when it has something for good, when something is gone, and when it refuses."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from modal._protocol.errors import Code, Fault

SYNC_ALL_FROM = 32  # files; above that the whole file system is flushed at once

_libc = ctypes.CDLL(None, use_errno=True)


def sync(path: str | Path) -> None:
    """Wait until the disk has a file's content, or a directory's names. Blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(where: Path | int) -> None:
    """Wait until the disk has all that was written to the file system of a directory, or an open file.

    Blocking. Raises OSError.
    """
    descriptor = where if isinstance(where, int) else os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        if descriptor is not where:
            os.close(descriptor)


def sync_files(paths: Sequence[str | Path], below: Path) -> None:
    """Wait until the disk has these files and their names. All lie below one directory. Blocking. Raises OSError."""
    if len(paths) > SYNC_ALL_FROM:
        sync_file_system(below)
    elif paths:
        with ThreadPoolExecutor(min(8, len(paths))) as pool:
            list(pool.map(sync, paths))
            list(pool.map(sync, {os.path.dirname(path) for path in paths}))


def remove_deep(name: str | Path, dir_fd: int | None = None) -> None:
    """Remove a directory and all below it, as `shutil.rmtree`, which cannot where it is nested hundreds of times.

    Blocking. Raises OSError.
    """
    way = [_open_names(name, dir_fd)]
    try:
        while True:
            fd, names, own = way[-1]
            for below in names:
                try:
                    os.unlink(below, dir_fd=fd)
                except FileNotFoundError:
                    continue
                except (IsADirectoryError, PermissionError):
                    way.append(_open_names(below, fd))
                    break
            else:
                os.close(way.pop()[0])
                os.rmdir(own, dir_fd=way[-1][0] if way else dir_fd)
                if not way:
                    return
    finally:
        for fd, _names, _own in way:
            os.close(fd)


def _open_names(name: str | Path, dir_fd: int | None) -> tuple[int, Iterator[str], str | Path]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    with contextlib.suppress(PermissionError):
        os.fchmod(fd, 0o700)
    return fd, iter(os.listdir(fd)), name


def disk_fault(error: OSError, path: Path) -> Fault:
    """The fault that a failure to write below the state directory becomes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(Code.EXHAUSTED, f"no space is left on the disk that holds {path.parent}: free some and try again")
    return Fault(Code.INTERNAL, f"cannot write {path}: {error.strerror or error}")
