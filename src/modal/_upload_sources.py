"""What goes into an upload: local files and directories, as they are when they are named."""

from __future__ import annotations

import os
import stat
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

from modal._protocol.messages.volume import DIRECTORY, FILE, SYMLINK, Entry
from modal.exception import InvalidError


class Source(NamedTuple):
    """One file on its way up."""

    remote: str
    local: str  # path of a file, "" for what is in memory
    content: bytes
    mode: int
    mtime: int  # nanoseconds
    size: int

    def entry(self, size: int, digest: str = "") -> Entry:
        return Entry(self.remote, FILE, self.mode, 0, 0, self.mtime, size, digest)


class Sources:
    """Files, directories and links of one upload."""

    def __init__(self) -> None:
        self.files: List[Source] = []
        self.others: List[Entry] = []  # directories and links
        self.left_out: List[str] = []  # local paths of what is neither file nor directory

    def add_file(self, local: str, remote: str, mode: Optional[int] = None) -> None:
        """A local file. `mode`: other permissions than its own. Raises FileNotFoundError, InvalidError."""
        try:
            status = os.stat(local)
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {local} to upload.") from None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidError(f"{local} is no plain file: only files and directories can be uploaded.")
        permissions = stat.S_IMODE(status.st_mode) if mode is None else mode & 0o7777
        self.files.append(Source(remote, local, b"", permissions, status.st_mtime_ns, status.st_size))

    def add_directory(self, local: str, remote: str, recursive: bool = True) -> None:
        """All of a local directory, empty ones too, and (unless `recursive` is False) what is in those below it.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        Raises InvalidError.
        """
        if remote:
            self.others.append(_directory(remote, os.stat(local)))
        for relative, entry, target in self._walk(local, recursive):
            whole = f"{remote}/{relative}" if remote else relative
            if target is not None:
                mtime = entry.stat(follow_symlinks=False).st_mtime_ns
                self.others.append(Entry(whole, SYMLINK, 0o777, 0, 0, mtime, len(target), target))
            elif entry.is_dir():
                self.others.append(_directory(whole, entry.stat()))
            else:
                self.add_file(entry.path, whole)

    def totals(self) -> Tuple[int, int]:
        """How many files, and how many bytes."""
        return len(self.files), sum(source.size for source in self.files)

    def _walk(self, local: str, recursive: bool) -> Iterator[Tuple[str, os.DirEntry[str], Optional[str]]]:
        """(relative path, entry, target of a link that stays one) of all that is below a directory.

        A link to a directory above itself is left out. Without calling itself: directories can be nested deeper.
        """
        root = os.path.realpath(local)
        way = [("", _entries(local), _identity(os.stat(local)))]
        above: Set[Tuple[int, int]] = {way[0][2]}
        while way:
            prefix, entries, identity = way[-1]
            for entry in entries:
                relative = prefix + entry.name
                target = _inner_link(entry.path, root) if entry.is_symlink() else None
                if target is not None:
                    yield relative, entry, target
                elif entry.is_file():
                    yield relative, entry, None
                elif entry.is_dir():
                    here = _identity(_status(entry))
                    if recursive and here not in above:
                        yield relative, entry, None
                        way.append((relative + "/", _entries(entry.path), here))
                        above.add(here)
                        break
                else:
                    self.left_out.append(entry.path)
            else:
                way.pop()
                above.discard(identity)


def _entries(directory: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            return iter(sorted(found, key=lambda entry: entry.name))
    except OSError as error:
        raise InvalidError(f"{_shortened(directory)} cannot be read: {error.strerror or error}.") from None


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat()
    except OSError as error:
        raise InvalidError(f"{_shortened(entry.path)} cannot be read: {error.strerror or error}.") from None


def _shortened(path: str) -> str:
    return path if len(path) < 500 else f"{path[:200]}…{path[-200:]}"


def _identity(status: os.stat_result) -> Tuple[int, int]:
    return status.st_dev, status.st_ino


def _directory(remote: str, status: os.stat_result) -> Entry:
    return Entry(remote, DIRECTORY, stat.S_IMODE(status.st_mode) | 0o700, 0, 0, status.st_mtime_ns, 0, "")


def _inner_link(path: str, root: str) -> Optional[str]:
    """The target of a relative link that stays below `root`; of one that leads nowhere, too. None for others."""
    target = os.readlink(path)
    if not os.path.exists(path):
        return target
    leads = os.path.realpath(path)
    if os.path.isabs(target) or not (leads + "/").startswith(root + "/"):
        return None
    return target


def remote_place(path: object) -> str:
    """A remote path as entries have it. Raises InvalidError."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"A path in a volume is a string, not {type(path).__name__}.")
    text = str(path)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidError(f"The remote path {text!r} leads out of the volume: leave out the '..'.")
    if "\0" in text:
        raise InvalidError(f"{text!r} is no path.")
    return "/".join(parts)


def open_file(path: str) -> int:
    """For reading. Raises InvalidError where that is impossible."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}.") from None


def content_of(source: Source) -> bytes:
    """All of it. Raises InvalidError."""
    if not source.local:
        return source.content
    with os.fdopen(open_file(source.local), "rb") as file:
        return file.read()


__all__ = ["Source", "Sources", "content_of", "open_file", "remote_place"]
