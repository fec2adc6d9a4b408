"""Files of network file systems: a plain directory each, which containers have mounted and may change at any moment.

So no path is trusted twice: every access walks down from the directory's descriptor, one part at a time, and follows
no symbolic link.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from intermodal.disk import SYNC_ALL_FROM, disk_fault, remove_deep, sync_file_system
from intermodal.server.services.volume_paths import clean, join
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Entry
from modal._protocol.writing import append_all

T = TypeVar("T")

CHUNK = 1 << 20  # bytes
INCOMING = ".incoming"  # beside the file systems: what is still being written, where no container sees it
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_numbers = itertools.count()


class NetworkFiles:
    """`directory` holds one directory for each network file system, by id."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / INCOMING

    def open(self) -> None:
        """Blocking: remove what an earlier server had not written to its end."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self._incoming.iterdir():
            left.unlink()

    def root(self, volume_id: str) -> Path:
        """Its directory, made where it is missing."""
        root = self._directory / volume_id
        root.mkdir(parents=True, exist_ok=True)
        return root

    async def entries(self, volume_id: str, path: str, recursive: bool) -> list[Entry]:
        """A directory's entries by name; a file's own; what matches a pattern, by absolute path. Fault: not-found."""
        return await self._do(self._list, volume_id, path, recursive)

    async def read(self, volume_id: str, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """Faults: not-found, invalid."""
        fd = await self._do(self._open_file, volume_id, clean(path))
        try:
            os.lseek(fd, max(0, offset), os.SEEK_SET)
            while chunk := await asyncio.to_thread(os.read, fd, CHUNK):
                yield chunk
        finally:
            os.close(fd)

    async def write(
        self, volume_id: str, path: str, mode: int, chunks: AsyncIterator[bytes], mtime: int | None = None
    ) -> int:
        """Whole or not at all, with the directories above; the size. Faults: invalid, exhausted."""
        cleaned = clean(path)
        if not cleaned:
            raise Fault(Code.INVALID, "the root of a network file system is no place for a file")
        parent, _, name = cleaned.rpartition("/")
        directory = await self._do(self._make_directories, volume_id, parent)
        temporary = self._temporary()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                size = 0
                async for chunk in chunks:
                    await asyncio.to_thread(append_all, fd, chunk)
                    size += len(chunk)
                os.fchmod(fd, mode & 0o777)
                if mtime is not None:
                    os.utime(fd, ns=(mtime, mtime))
                await asyncio.to_thread(os.fsync, fd)
            finally:
                os.close(fd)
            _put_in_place(temporary, name, directory, cleaned)
            await asyncio.to_thread(os.fsync, directory)
            return size
        except OSError as error:
            raise _explain(error, path) from error
        finally:
            temporary.unlink(missing_ok=True)
            os.close(directory)

    async def write_all(self, volume_id: str, entries: list[Entry], contents: list[bytes]) -> None:
        """Several files, directories and links, each whole or not at all. Faults: invalid, exhausted."""
        await self._do(self._write_all, volume_id, entries, contents)

    async def make_directory(self, volume_id: str, path: str) -> None:
        """With those above it; one that is there stays. Faults: invalid (a file is in the way)."""
        os.close(await self._do(self._make_directories, volume_id, clean(path)))

    async def remove(self, volume_id: str, path: str, recursive: bool) -> None:
        """Faults: not-found, invalid (a directory without `recursive`)."""
        await self._do(self._remove, volume_id, clean(path), recursive)

    async def remove_all(self, volume_id: str) -> None:
        """The network file system is deleted."""
        await asyncio.to_thread(_remove_quietly, self._directory / volume_id)

    # -- blocking
    async def _do(self, function: Callable[..., T], *args: object) -> T:
        try:
            return await asyncio.to_thread(function, *args)
        except OSError as error:
            path = next((arg for arg in args[1:] if isinstance(arg, str)), "")
            raise _explain(error, path) from error

    @contextmanager
    def _open_directory(self, volume_id: str, path: str) -> Iterator[int]:
        fd = os.open(self.root(volume_id), _DIRECTORY)
        try:
            for part in path.split("/") if path else ():
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _make_directories(self, volume_id: str, path: str) -> int:
        fd = os.open(self.root(volume_id), _DIRECTORY)
        try:
            for part in path.split("/") if path else ():
                try:
                    os.mkdir(part, 0o755, dir_fd=fd)
                except FileExistsError:
                    pass
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _write_all(self, volume_id: str, entries: list[Entry], contents: list[bytes]) -> None:
        """All are written, then made durable together, then put into their places."""
        parts = iter(contents)
        written: list[tuple[Entry, Path]] = []  # and where it is until it is in its place
        together = len(contents) > SYNC_ALL_FROM
        with _Below(lambda path: self._make_directories(volume_id, path)) as below:
            try:
                for entry in entries:
                    if entry.kind == DIRECTORY:
                        below.directory(entry.path)
                        continue
                    below.directory(entry.path.rpartition("/")[0])
                    temporary = self._temporary()
                    written.append((entry, temporary))
                    if entry.kind == SYMLINK:
                        temporary.symlink_to(entry.content)
                    else:
                        _write_file(entry, temporary, next(parts), not together)
                if together:
                    sync_file_system(below.directory(""))
                for entry, temporary in written:
                    parent, _, name = entry.path.rpartition("/")
                    _put_in_place(temporary, name, below.directory(parent), entry.path)
                if together:
                    sync_file_system(below.directory(""))
                else:
                    for parent in {entry.path.rpartition("/")[0] for entry in entries}:
                        os.fsync(below.directory(parent))
            except OSError as error:
                raise _explain(error, entry.path) from error
            finally:
                for _entry, temporary in written:
                    temporary.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._incoming / f"{os.getpid()}-{next(_numbers)}"

    def _open_file(self, volume_id: str, path: str) -> int:
        parent, _, name = path.rpartition("/")
        with self._open_directory(volume_id, parent) as directory:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name or ".", flags, dir_fd=directory)
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind != stat.S_IFREG:
            os.close(fd)
            what = "a directory" if kind == stat.S_IFDIR else "not a plain file"
            raise Fault(Code.INVALID, f"{path or '/'!r} is {what}: only files can be read")
        return fd

    def _list(self, volume_id: str, path: str, recursive: bool) -> list[Entry]:
        if "*" in path:
            return self._matching(volume_id, clean(path))
        cleaned = clean(path)
        parent, _, name = cleaned.rpartition("/")
        if name:
            with self._open_directory(volume_id, parent) as directory:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                return [_entry(name, status)]
        with self._open_directory(volume_id, cleaned) as directory:
            return sorted(_walk(directory, recursive))

    def _matching(self, volume_id: str, pattern: str) -> list[Entry]:
        matches = re.compile(_pattern(pattern)).fullmatch
        with self._open_directory(volume_id, "") as directory:
            found = [entry for entry in _walk(directory, True) if matches(entry.path)]
        return sorted(entry._replace(path="/" + entry.path) for entry in found)

    def _remove(self, volume_id: str, path: str, recursive: bool) -> None:
        parent, _, name = path.rpartition("/")
        with self._open_directory(volume_id, parent) as directory:
            if not name:
                if not recursive:
                    raise Fault(Code.INVALID, "'/' is a directory: use recursive=True (`rm -r`) to empty it")
                for one in os.listdir(directory):
                    _remove_entry(one, directory)
                return
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and not recursive:
                raise Fault(Code.INVALID, f"{path!r} is a directory: use recursive=True (`rm -r`) to remove it")
            _remove_entry(name, directory)


def _walk(directory: int, recursive: bool) -> Iterator[Entry]:
    """All that is in an open directory. Without calling itself: directories can be nested deeper than calls."""
    way = [(directory, "", iter(os.listdir(directory)))]
    try:
        while way:
            fd, prefix, names = way[-1]
            for name in names:
                path = join(prefix, name)
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    link = stat.S_ISLNK(status.st_mode)
                    yield _entry(path, status, os.readlink(name, dir_fd=fd) if link else "")
                    if recursive and stat.S_ISDIR(status.st_mode):
                        below = os.open(name, _DIRECTORY, dir_fd=fd)
                        way.append((below, path, iter(os.listdir(below))))
                        break
                except (FileNotFoundError, NotADirectoryError):
                    continue  # a container was quicker
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
            else:
                way.pop()
                if way:
                    os.close(fd)
    finally:
        for fd, _prefix, _names in way[1:]:
            os.close(fd)


def _remove_entry(name: str, directory: int) -> None:
    if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        try:
            shutil.rmtree(name, dir_fd=directory)
        except RecursionError:
            remove_deep(name, directory)
    else:
        os.unlink(name, dir_fd=directory)


def _remove_quietly(path: Path) -> None:
    try:
        shutil.rmtree(path, ignore_errors=True)
    except RecursionError:
        with suppress(OSError):
            remove_deep(path)


def _entry(path: str, status: os.stat_result, target: str = "") -> Entry:
    kinds = {
        stat.S_IFREG: FILE,
        stat.S_IFDIR: DIRECTORY,
        stat.S_IFLNK: SYMLINK,
        stat.S_IFIFO: FIFO,
        stat.S_IFSOCK: SOCKET,
    }
    return Entry(
        path,
        kinds.get(stat.S_IFMT(status.st_mode), 0),
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size,
        target,
    )


def _pattern(pattern: str) -> str:
    """A pattern with `*` (within one name) and `**` (over any number of them) as a regular expression."""
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
        else:
            parts.append("[^/]*".join(re.escape(piece) for piece in re.split(r"\*+", part)) + "/")
    text = "".join(parts)
    if pattern.endswith("**"):
        return text[: -len("(?:[^/]+/)*")] + "(?s:.+)"  # names may have newlines
    return text[:-1]


class _Below:
    """Opens directories, one at a time."""

    def __init__(self, make: Callable[[str], int]) -> None:
        self._make = make
        self._open: tuple[str, int] | None = None

    def directory(self, path: str) -> int:
        """Until the next one is asked for. Raises OSError."""
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, self._make(path)
        return self._open[1]

    def close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def __enter__(self) -> _Below:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()


def _write_file(entry: Entry, path: Path, content: bytes, durably: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        append_all(fd, content)
        os.fchmod(fd, entry.mode & 0o777)
        if entry.mtime:
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        if durably:
            os.fsync(fd)
    finally:
        os.close(fd)


def _put_in_place(temporary: Path, name: str, directory: int, path: str) -> None:
    """Fault: invalid where a directory has the name."""
    try:
        os.rename(temporary, name, dst_dir_fd=directory)
    except IsADirectoryError:
        raise Fault(
            Code.INVALID, f"{path!r} is a directory in the network file system: a file cannot take its place"
        ) from None


def _explain(error: OSError, path: str) -> Fault:
    if error.errno == errno.ENOENT:
        return Fault(Code.NOT_FOUND, f"No such file or directory in the network file system: {path!r}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return Fault(Code.INVALID, f"{path!r} leads over a symbolic link or a file: only directories may be on the way")
    if error.errno == errno.EISDIR:
        return Fault(Code.INVALID, f"{path!r} is a directory")
    return disk_fault(error, Path(path or "/"))
