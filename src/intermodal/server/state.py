"""The state directory: made, checked and locked before anything else."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from intermodal import processes
from intermodal.disk import sync
from intermodal.home import Home
from intermodal.server.store.migrations import Refused

# What may lie in a directory that no server has used yet: what `up` puts there before it starts one.
_OURS = ("server.", "start.", ".")


GLANCE_SECONDS = 2.0


class Busy(Refused):
    """Another server uses the directory."""


def prepare(home: Home) -> None:
    """Make the directory and its parts. Raises Refused with what to do where it cannot be used."""
    path = home.path
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = path.stat()
    except FileExistsError:
        raise Refused(f"{path} is a file: set INTERMODAL_HOME to a directory") from None
    except OSError as error:
        raise Refused(
            f"{path} cannot be made ({error.strerror}): set INTERMODAL_HOME to a directory that you may write"
        ) from None
    if os.geteuid() not in (0, found.st_uid):
        raise Refused(f"{path} belongs to another user: set INTERMODAL_HOME to a directory of your own")
    if not home.store.exists() and not home.lock.exists():  # a lock: it was ours, and somebody took the store away
        _refuse_foreign(home)
    try:
        for part in (home.values, home.files, home.mounts, home.layers, home.images, home.containers, home.logs):
            part.mkdir(exist_ok=True, mode=0o700 if part in (home.values, home.logs) else 0o755)
    except OSError as error:
        raise Refused(
            f"{path} cannot be written ({error.strerror}): free its disk, or change INTERMODAL_HOME"
        ) from None
    if not home.store.exists():
        _secure_names(path)
    _prepare_socket_directory(home)


def _secure_names(path: Path) -> None:
    """A new directory is on the disk, with those above it that are as new."""
    for directory in (path, *path.parents):
        try:
            sync(directory)
        except OSError:  # not ours to read: then it was not made for us
            return


def _refuse_foreign(home: Home) -> None:
    ours = {value.name for value in vars(home).values() if isinstance(value, Path)}
    foreign = [name for name in os.listdir(home.path) if name not in ours and not name.startswith(_OURS)]
    if foreign:
        raise Refused(
            f"{home.path} is no state directory of Intermodal: it has no {home.store.name} but holds "
            f"{', '.join(sorted(foreign)[:3])}. Set INTERMODAL_HOME to a new or empty directory"
        )


def _prepare_socket_directory(home: Home) -> None:
    """A home with a long path has its socket below /tmp, where the directory might be somebody else's."""
    folder = home.socket.parent
    if folder == home.path:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o077 or folder.is_symlink():
        raise Refused(
            f"{folder} belongs to somebody else or is open to others: remove it, or use a shorter INTERMODAL_HOME"
        )


def lock(home: Home) -> int:
    """Take the directory for this process for as long as it lives; the descriptor. Raises Busy."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(descriptor)
    except OSError as error:
        who = os.pread(descriptor, 100, 0).decode(errors="replace").split()
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise Refused(
                f"{home.lock} cannot be locked ({error.strerror}): use a local disk for INTERMODAL_HOME"
            ) from None
        pid = f" (process {who[0]})" if who else ""
        raise Busy(
            f"another server{pid} uses {home.path}: stop it with `intermodal down`, or set INTERMODAL_HOME "
            "to another directory for a second one"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{processes.myself()}\n".encode(), 0)
    return descriptor


def _take(descriptor: int) -> None:
    """Raises OSError. Somebody who only looks whether the lock is free may have it for a moment."""
    deadline = time.monotonic() + GLANCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = processes.parse(os.pread(descriptor, 100, 0).decode(errors="replace"))
            if (holder is not None and holder.lives) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
