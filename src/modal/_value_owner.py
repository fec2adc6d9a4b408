"""Whose large arguments lie in the values directory: a lock that ends with this process tells the server.

The ids of such values begin with a mark of the process that wrote them, and a file of that name, beside the directory,
is locked for as long as the process lives, or a child that it has forked. Nobody but the process that waits for a call
needs its arguments, so once the lock is free the server may delete what bears the mark, even where it was started anew
and knows nothing of the calls. A value without a mark says nothing of this kind: spawned calls' and dicts' have none.
"""

from __future__ import annotations

import os
from typing import Dict, Tuple

from modal._protocol.home import owners_dir

_held: Dict[str, Tuple[int, Tuple[int, int], str]] = {}  # directory of values -> the lock, which file that is, the mark


def mark(values_dir: str) -> str:
    """How ids of values begin, after `vl-`, that only this process needs; "" where nobody could tell that it lives."""
    held = _held.get(values_dir)
    if held is not None and _is(held[0], held[1]):
        return held[2]
    try:
        made = _lock(owners_dir(values_dir))
    except OSError:  # an older server, another kind of file system, a full disk
        return ""
    _held[values_dir] = made
    return made[2]


def _is(fd: int, file: Tuple[int, int]) -> bool:
    """Whether the descriptor is still that file's: a program that becomes a daemon closes all it finds."""
    try:
        return _identity(os.fstat(fd)) == file
    except OSError:
        return False


def _identity(found: os.stat_result) -> Tuple[int, int]:
    return found.st_dev, found.st_ino


def _lock(directory: str) -> Tuple[int, Tuple[int, int], str]:
    import fcntl

    from modal._serialization import MARK_LENGTH, random_text

    made = random_text(MARK_LENGTH)
    path = os.path.join(directory, made)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        file = _identity(os.fstat(fd))
        if _identity(os.stat(path)) != file:
            raise FileNotFoundError(path)
    except BaseException:
        os.close(fd)  # and whoever sweeps removes the file
        raise
    return fd, file, made
