"""What a container has changed in a volume: its upper directory, read as a list of changes.

The container may change anything while it is read, so every access goes by descriptors, follows no link, and takes a
file for unchanged only when inode, size, times and owner say so, and its last change is not from this very moment.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from intermodal.contents import Contents
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry
from modal._protocol.objects import hash_of

FRESH = 50_000_000  # nanoseconds: clocks of file systems are coarse, so a younger file may change without a trace
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PREFIXES = ("trusted.overlay.", "user.overlay.")

Stamp = tuple[int, ...]
UNKNOWN: Stamp = ()  # equal to no stamp: look again


class Seen(NamedTuple):
    """What was committed of one path."""

    kind: int
    stamp: Stamp
    content: str = ""  # a file's SHA-256
    fresh: bool = False  # it had just changed: equal stamps do not say that it has not changed again


Memo = dict[str, Seen]


class _Directory(NamedTuple):
    """One that is being looked through."""

    fd: int
    path: str
    anew: bool
    names: Iterator[str]  # of what is still to come


def _open_directory(fd: int, path: str, anew: bool) -> _Directory:
    return _Directory(fd, path, anew, iter(sorted(os.listdir(fd))))


def stamp_of(status: os.stat_result) -> Stamp:
    return (
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_mode,
        status.st_uid,
        status.st_gid,
    )


class Scan:
    """`run()` once; then `changes` says what to commit, and `memo` what is committed once that has succeeded."""

    def __init__(self, upper: str, memo: Memo, objects: Contents, merged: Callable[[], str]) -> None:
        """`merged()` mounts the whole tree as the container sees it, read-only, and returns where: it is asked for
        when a directory of an older version was renamed."""
        self.changes: list[Entry] = []
        self.memo: Memo = {}
        self._upper = upper
        self._old = memo
        self._objects = objects
        self._merged = merged

    def run(self) -> None:
        """Blocking: stores contents as it goes. Raises OSError where the disk is full."""
        found: list[Entry] = []
        self._found = found
        fd = os.open(self._upper, _DIRECTORY)
        try:
            self._directory(fd, "", False)
        finally:
            os.close(fd)
        self.changes = [*self._gone(), *found]

    def _gone(self) -> list[Entry]:
        """What was committed and is not there any more; of a directory, itself alone."""
        gone: list[Entry] = []
        for path in sorted(self._old.keys() - self.memo.keys()):
            if self._old[path].kind != REMOVED and not (gone and path.startswith(gone[-1].path + "/")):
                gone.append(Entry(path, REMOVED))
        return gone

    # -- walking
    def _directory(self, fd: int, prefix: str, anew: bool) -> None:
        """All that is in an open directory, and below it. `anew`: whatever was committed before is of no account."""
        way = [_open_directory(fd, prefix, anew)]  # directories can be nested deeper than Python's calls
        try:
            while way:
                below = self._next_below(way[-1])
                if below is not None:
                    way.append(below)
                elif len(way) > 1:
                    os.close(way.pop().fd)
                else:
                    return
        finally:
            for one in way[1:]:
                os.close(one.fd)

    def _next_below(self, directory: _Directory) -> _Directory | None:
        """Go on with its entries, up to a directory that has to be looked into."""
        for name in directory.names:
            path = f"{directory.path}/{name}" if directory.path else name
            try:
                status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
                below = self._entry(directory.fd, name, path, status, directory.anew)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed at this very moment: the next scan says so
            if below is not None:
                return below
        return None

    def _entry(self, fd: int, name: str, path: str, status: os.stat_result, anew: bool) -> _Directory | None:
        kind = stat.S_IFMT(status.st_mode)
        old = None if anew else self._old.get(path)
        if kind == stat.S_IFREG:
            self._file(fd, name, path, status, old)
        elif kind == stat.S_IFDIR:
            return self._subdirectory(fd, name, path, old, anew)
        elif kind == stat.S_IFLNK:
            stamp = stamp_of(status)
            if old is None or old.stamp != stamp:
                target = os.readlink(name, dir_fd=fd)
                self._found.append(_entry(path, SYMLINK, status, len(os.fsencode(target)), target))
            self.memo[path] = Seen(SYMLINK, stamp)
        elif kind == stat.S_IFCHR and status.st_rdev == 0:
            if old is None or old.kind != REMOVED:
                self._found.append(Entry(path, REMOVED))
            self.memo[path] = Seen(REMOVED, UNKNOWN)
        return None

    def _subdirectory(self, fd: int, name: str, path: str, old: Seen | None, anew: bool) -> _Directory | None:
        """The directory itself; open, where what is in it is still to be looked at."""
        below = os.open(name, _DIRECTORY, dir_fd=fd)
        try:
            status = os.fstat(below)
            stamp = stamp_of(status)
            same = old is not None and old.kind == DIRECTORY and bool(old.stamp) and old.stamp[0] == stamp[0]
            if not same and _attribute(below, "redirect"):
                self._found.append(_entry(path, DIRECTORY, status))
                self._found.append(Entry(path, CLEARED))
                self.memo[path] = Seen(DIRECTORY, stamp)
                self._moved(path)
                os.close(below)
                return None
            seen = Seen(DIRECTORY, stamp)
            if old is None or not _is_same(old, seen):
                self._found.append(_entry(path, DIRECTORY, status))
            self.memo[path] = seen
            if not same and _attribute(below, "opaque") == b"y":
                self._found.append(Entry(path, CLEARED))
                anew = True
            return _open_directory(below, path, anew)
        except BaseException:
            os.close(below)
            raise

    def _moved(self, path: str) -> None:
        """A renamed directory: all that is in it now, wherever it lies."""
        fd = os.open(self._merged(), _DIRECTORY)
        try:
            for part in path.split("/"):
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            memo, self.memo = self.memo, {}
            try:
                self._directory(fd, path, True)
            finally:
                self.memo = memo  # the inodes of this view are not those of the upper directory
        finally:
            os.close(fd)

    # -- files
    def _file(self, fd: int, name: str, path: str, status: os.stat_result, old: Seen | None) -> None:
        if old is not None and old.kind == FILE and old.stamp == stamp_of(status) and not old.fresh:
            self.memo[path] = old
            return
        file = os.open(name, _FILE, dir_fd=fd)
        try:
            before = os.fstat(file)
            if not stat.S_ISREG(before.st_mode):
                return
            now = time.time_ns()
            content, size = self._content(file, before, old)
            stamp = stamp_of(before)
            if stamp_of(os.fstat(file)) != stamp:
                stamp = UNKNOWN  # written to meanwhile
        finally:
            os.close(file)
        seen = Seen(FILE, stamp, content, now - max(before.st_mtime_ns, before.st_ctime_ns) < FRESH)
        self.memo[path] = seen
        if old is None or not _is_same(old, seen):
            self._found.append(_entry(path, FILE, before, size, content))

    def _content(self, file: int, status: os.stat_result, old: Seen | None) -> tuple[str, int]:
        if old is not None and old.kind == FILE and old.content:
            content, size = hash_of(file)  # most probably what is stored already
            if content == old.content:
                return content, size
        return self._objects.ingest(file, status)


def _is_same(one: Seen, other: Seen) -> bool:
    """Whether nothing differs that a commit keeps: inode and time of the last change of state are of no account."""
    if one.kind != other.kind or one.content != other.content or not one.stamp or not other.stamp:
        return False
    return (*one.stamp[1:3], *one.stamp[4:]) == (*other.stamp[1:3], *other.stamp[4:])


def _entry(path: str, kind: int, status: os.stat_result, size: int = 0, content: str = "") -> Entry:
    mode = stat.S_IMODE(status.st_mode)
    return Entry(path, kind, mode, status.st_uid, status.st_gid, status.st_mtime_ns, size, content)


def _attribute(fd: int, name: str) -> bytes:
    """What overlayfs has noted of a directory, b"" for nothing."""
    for prefix in _PREFIXES:
        try:
            return os.getxattr(fd, prefix + name)
        except OSError:
            continue
    return b""


def memo_to_json(memo: Memo, pending: list[Entry]) -> Any:
    """To be kept on disk before `pending` is sent: nobody knows yet whether that will be committed."""
    kept = {path: list(seen) for path, seen in memo.items()}
    for entry in pending:
        if entry.kind not in (REMOVED, CLEARED):
            kept[entry.path] = [entry.kind, [], "", False]
    return kept


def memo_from_json(values: Any) -> Memo:
    return {path: Seen(kind, tuple(stamp), *more) for path, (kind, stamp, *more) in values.items()}
