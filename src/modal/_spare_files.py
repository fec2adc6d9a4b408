"""Files of large values that are written again: memory that was used a moment ago costs less than any other.

Who has written a large value of a waiting call keeps a second name of its file, `<value>.spare`, beside it. When that
name is the only one left the value was read and is forgotten, and when the file is nowhere open or mapped either,
nobody can see what is written into it: it becomes the next large value, its pages in memory already. A virtual machine
that gives free memory back to its host needs up to ten times as long for pages that it has to ask for again.

Each process uses spares of its own alone, and only for who could read what they held before. Their names are removed by
who owns the directory (the server, or a container's worker) a few seconds after the value was forgotten, or taken; so
nothing is kept by who does nothing.
"""

from __future__ import annotations

import fcntl
import os
import signal
from typing import List, NamedTuple

from modal._protocol.home import SPARE_SUFFIX

SMALLEST = 8 << 20  # bytes
MOST = 256 << 20  # bytes that a process keeps in mind, and that larger values are not kept for


class _Spare(NamedTuple):
    path: str
    size: int
    audience: str


_spares: List[_Spare] = []  # the oldest first


def keep(directory: str, blob: str, path: str, size: int, audience: str) -> None:
    """This finished file, still at `path`, will be the value `blob`. It is a spare from when that is gone."""
    if not SMALLEST <= size <= MOST:
        return
    spare = _Spare(os.path.join(directory, blob + SPARE_SUFFIX), size, audience)
    try:
        os.link(path, spare.path)
    except OSError:  # no hard links here, a full disk
        return
    _spares.append(spare)
    while sum(one.size for one in _spares) > MOST:
        oldest = _spares[0]
        _forget(oldest)
        _remove(oldest.path)


def take(directory: str, size: int, path: str, audience: str) -> int:
    """A descriptor for writing to a spare, which now has the name `path`; -1 without one. Its content is to go."""
    here = [one for one in list(_spares) if one.audience == audience and os.path.dirname(one.path) == directory]
    here.sort(key=lambda one: (one.size < size, abs(one.size - size)))  # a larger one needs no new pages
    for spare in here:
        fd = _claim(spare, path)
        if fd >= 0:
            return fd
    return -1


def _claim(spare: _Spare, path: str) -> int:
    try:
        if os.stat(spare.path).st_nlink != 1:
            return -1
        fd = os.open(spare.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # its time was over
        _forget(spare)
        return -1
    try:
        if os.fstat(fd).st_nlink == 1 and _is_alone(fd):
            os.rename(spare.path, path)
            _forget(spare)
            return fd
    except OSError:
        _forget(spare)
    os.close(fd)
    return -1


def _is_alone(fd: int) -> bool:
    """Whether nobody else has the file open or mapped: the kernel grants a lease for writing on no other terms.

    It is given back at once. Who opened the file just then would make the kernel send a signal, which ends a process
    unless it is one that is ignored.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # type: ignore[attr-defined,unused-ignore]
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except (OSError, AttributeError):  # somebody has; or no leases here
        return False
    return True


def _forget(spare: _Spare) -> None:
    try:
        _spares.remove(spare)
    except ValueError:  # another thread was quicker
        pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
