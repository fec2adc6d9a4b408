"""Downloads of directories and files: several at a time, and on the server's own machine straight from its store.

A file appears under its name when it is whole. What is there already with the right size and time is not fetched again,
and of a large file only what is missing, so that a download which was interrupted goes on where it ended.
"""

from __future__ import annotations

import os
from typing import Any, Callable, List, Optional, Set, Tuple

from modal import _sync
from modal._protocol.messages.volume import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    FileContents,
    ObjectsMissing,
    VolumeEntries,
    VolumeLs,
    VolumeReadMany,
)
from modal._protocol.objects import CHUNK, copy_file, has_object, object_path
from modal._transfer import SMALL, Advance, Progress, batches, in_threads
from modal._volume import Volume, _Stored
from modal.exception import InvalidError, NotFoundError, RequestSizeError

PARTIAL = ".modal-partial"  # ends the names of files that are still being written
LONGEST_NAME = 255  # bytes, on all common file systems
Wanted = Tuple[Entry, str, str]  # and its remote path, and the local one
LARGE = 16 << 20  # bytes: what has come of such a file is kept


def list_entries(source: _Stored, path: str, recursive: bool) -> List[Entry]:
    """What is at a path, as the server has it. Blocking."""
    client = _sync.run(source._ready())
    found: List[Entry] = []
    for item in _sync.iterate(client.stream(VolumeLs(source.object_id, path, recursive))):
        if isinstance(item, VolumeEntries):
            found += [Entry(*values) for values in item.entries]
    return found


class Download:
    """Fetches entries of a volume or network file system. Blocking."""

    def __init__(self, source: _Stored, force: bool, progress: Optional[Progress] = None) -> None:
        self._source = source
        self._force = force
        self._progress = progress
        self._advance = Advance(None, 0, 0)
        self._directory = ""

    def fetch(self, wanted: List[Wanted], root: str = "") -> None:
        """Raises InvalidError where something is in the way, OSError. `root`: what all local paths are below, or are;
        links in there are not followed, as whoever wrote the volume may have made them in an earlier download."""
        files = [one for one in wanted if one[0].kind == FILE]
        self._advance = Advance(self._progress, len(files), sum(entry.size for entry, _remote, _local in files))
        self._check([local for entry, _remote, local in wanted if entry.kind != DIRECTORY], wanted)
        if isinstance(self._source, Volume):
            client = _sync.run(self._source._ready())
            self._directory = _sync.run(client.request(ObjectsMissing([]), ObjectsMissing)).directory
        directories = {local for entry, _remote, local in wanted if entry.kind == DIRECTORY}
        parents = {os.path.dirname(local) for _entry, _remote, local in wanted} - {""}
        _check_ways(directories | parents, root)
        new = {local for local in directories if not os.path.isdir(local)}
        for local in sorted(directories | parents):
            make_directory(local)
        in_threads(self._fetch, list(batches(files, self._cost)), self._advance)
        for entry, _remote, local in wanted:
            if entry.kind == SYMLINK:
                _make_link(local, entry.content)
        for entry, _remote, local in reversed(wanted):
            if entry.kind == DIRECTORY:
                if local in new:
                    os.chmod(local, entry.mode & 0o777 | 0o700)
                os.utime(local, ns=(entry.mtime, entry.mtime))

    def _check(self, locals_: List[str], wanted: List[Wanted]) -> None:
        if self._force:
            return
        same = {local for entry, _remote, local in wanted if entry.kind != DIRECTORY and _is_same(local, entry)}
        for local in locals_:
            if os.path.lexists(local) and local not in same:
                raise InvalidError(f"{local} exists already: use --force to overwrite it.")

    def _cost(self, one: Wanted) -> Optional[Tuple[int, int]]:
        """Small files that have to come from the server come together."""
        entry, remote, local = one
        if self._directory or entry.size > SMALL or _is_same(local, entry):
            return None
        return entry.size, 6 * len(remote) + 10  # at worst: \u escapes

    def _fetch(self, batch: List[Wanted]) -> None:
        contents: List[Optional[bytes]] = [None] * len(batch)
        if len(batch) > 1:
            contents = self._read_many([remote for _entry, remote, _local in batch])
        for one, content in zip(batch, contents):
            self._advance.go_on()
            self._fetch_file(one, content)

    def _read_many(self, remotes: List[str]) -> List[Optional[bytes]]:
        """Their contents; nothing where each has to be read by itself, which also says what is wrong with which."""
        client = _sync.run(self._source._ready())
        try:
            answer = _sync.run(client.request(VolumeReadMany(self._source.object_id, remotes), FileContents))
        except (InvalidError, NotFoundError, RequestSizeError):  # or a server of an earlier version
            return [None] * len(remotes)
        return list(answer.contents)

    def _fetch_file(self, one: Wanted, content: Optional[bytes]) -> None:
        entry, remote, local = one
        if not _is_same(local, entry):
            if os.path.isdir(local) and not os.path.islink(local):
                raise InvalidError(f"{local} is a directory: a file cannot take its place.")
            keep = entry.size >= LARGE and bool(entry.content)
            temporary = _temporary(local, f".{entry.content[:16]}" if keep else "")
            try:
                if content is None:
                    self._write(entry, remote, temporary, lambda position: self._advance.at(local, position))
                else:
                    with open(temporary, "wb") as file:
                        file.write(content)
                os.chmod(temporary, entry.mode & 0o777)
                os.utime(temporary, ns=(entry.mtime, entry.mtime))
                os.replace(temporary, local)
            except BaseException:
                if not keep:
                    _unlink(temporary)
                raise
        self._advance.done(local, entry.size)

    def _write(self, entry: Entry, remote: str, target: str, told: Callable[[int], None]) -> None:
        if self._directory and entry.content and has_object(self._directory, entry.content):
            try:
                copy_file(object_path(self._directory, entry.content), target, told)
                return
            except FileNotFoundError:
                pass  # collected at this very moment: the server says what is the matter
        begun = _size_of(target) if entry.size >= LARGE and entry.content else 0
        self._append(remote, target, begun if begun < entry.size else 0, told)
        if begun and _digest_of(target) != entry.content:  # it was damaged, or the server knows no offsets
            self._append(remote, target, 0, told)

    def _append(self, remote: str, target: str, offset: int, told: Callable[[int], None]) -> None:
        with open(target, "r+b" if offset else "wb") as file:
            file.seek(offset)
            for chunk in self._source._chunks_blocking(remote, offset):
                file.write(chunk)
                told(file.tell())

    def stream(self, remote: str, write: Callable[[bytes], Any]) -> None:
        """A file's content to standard output or the like."""
        for chunk in self._source._chunks_blocking(remote):
            write(chunk)


def _temporary(local: str, tag: str) -> str:
    """What a file is called until it is whole: beside its place, and the same each time."""
    directory, name = os.path.split(local)
    if len(os.fsencode(name + tag + PARTIAL)) > LONGEST_NAME:
        import hashlib

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(directory, name + tag + PARTIAL)


def make_directory(path: str) -> None:
    """With those above it. Raises InvalidError where something else has the name."""
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidError(f"{error.filename or path} is a file, and a directory is needed there.") from None


def _check_ways(directories: Set[str], root: str) -> None:
    """Raises InvalidError where a link below `root` is on the way to one of these, or in its place."""
    seen: Set[str] = set()
    for directory in directories:
        while len(directory) > len(root.rstrip("/")) and root and directory not in seen:
            if os.path.islink(directory):
                raise InvalidError(f"{directory} is a link, and a directory is needed there: remove it.")
            seen.add(directory)
            directory = os.path.dirname(directory)


def _make_link(local: str, target: str) -> None:
    if os.path.isdir(local) and not os.path.islink(local):
        raise InvalidError(f"{local} is a directory: a link cannot take its place.")
    if os.path.lexists(local):
        os.unlink(local)
    os.symlink(target, local)


def _is_same(local: str, entry: Entry) -> bool:
    """Whether what is there is what an earlier, interrupted download has left: same size, same time, same target."""
    try:
        status = os.lstat(local)
        if entry.kind == SYMLINK:
            return os.readlink(local) == entry.content
    except OSError:
        return False
    return (
        status.st_size == entry.size
        and status.st_mtime_ns == entry.mtime
        and (status.st_mode & 0o170777) == (0o100000 | entry.mode & 0o777)
    )


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _digest_of(path: str) -> str:
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
