"""A process's own log: its stdout and stderr in a file of bounded size."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT = 8 << 20  # bytes; one older file of this size is kept as NAME.1


def open_log(path: Path) -> int:
    """A descriptor to append to the log, for a process that is about to be started. Rotates a full one first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.stat().st_size > LIMIT:
            path.rename(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        pass
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def rotate(path: Path, limit: int = LIMIT) -> bool:
    """Called now and then by the process that writes there: a new file once the old one is full."""
    try:
        there, mine = os.stat(path), os.fstat(2)
    except FileNotFoundError:
        return False
    if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino) or there.st_size <= limit:
        return False
    new = path.with_name(path.name + ".new")  # first: where a full disk has no room for it, all stays as it is
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.rename(path, path.with_name(path.name + ".1"))
    os.rename(new, path)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return True
