"""The object store of volumes, as server and worker use it: checked, made durable, linked into trees, collected."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from intermodal.begun import PREFIX, Begun
from intermodal.disk import disk_fault, sync_files
from intermodal.files import FileWriter, check_digest
from intermodal.processes import lives
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import Entry
from modal._protocol.objects import INCOMING, copy_file, object_path, place

SPARED = 24 * 3600.0  # seconds that an object is kept although nothing refers to it: an upload may be under way
MODE = 0o644  # of an object whose file's own mode or owner it cannot have


class Contents:
    """The store below one directory. Any number of processes may use it at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._text = str(directory)
        self._attributes = threading.Lock()
        self.begun = Begun(directory / INCOMING)

    def prepare(self) -> None:
        """Make the directory; remove what interrupted writers of ended processes left, but for uploads. Blocking."""
        incoming = self.directory / INCOMING
        incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in incoming.iterdir():
            if path.name.startswith(PREFIX):
                continue
            pid = path.name.partition("-")[0]
            if not pid.isdigit() or not lives(int(pid)):
                path.unlink(missing_ok=True)

    def path(self, digest: str) -> str:
        """Where the content lies, or will lie. Fault: invalid."""
        return object_path(self._text, check_digest(digest))

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that the store lacks, in their order, each once. Blocking."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def put(self, digest: str, content: bytes) -> None:
        """Keep a content. Blocking. Fault: invalid where it has another hash, exhausted on a full disk."""
        if not self.has(digest):
            with self.writer(digest) as writer:
                writer.write(content)
                writer.commit()

    def resumed_writer(self, digest: str, token: str, begin: int) -> FileWriter:
        """As `writer`, of an upload that may be interrupted and gone on with; see `begun`. Fault: conflict."""
        return self.begun.writer(Path(self.path(digest)), digest, token, begin) or self.writer(digest)

    def writer(self, digest: str) -> FileWriter:
        """A content that arrives in parts; see FileWriter."""
        temporary = self.directory / INCOMING / f"{os.getpid()}-w{time.monotonic_ns()}"
        return FileWriter(Path(self.path(digest)), digest, temporary)

    def ingest(self, fd: int, status: os.stat_result) -> tuple[str, int]:
        """Put an open file's content into the store; SHA-256 and size. Blocking. Raises OSError."""
        own = status.st_uid == 0 and status.st_gid == 0
        mode = stat.S_IMODE(status.st_mode) if own else MODE
        return place(fd, self._text, mode, status.st_mtime_ns)

    # -- durability
    def make_durable(self, digests: Sequence[str]) -> None:
        """Return once these contents, and their names, are on the disk. Blocking. Fault: internal, exhausted."""
        wanted = list(dict.fromkeys(digests))
        try:
            sync_files([self.path(digest) for digest in wanted], self.directory)
        except OSError as error:
            raise disk_fault(error, self.directory) from error

    def mend(self, since: float, used: set[str] | None) -> int:
        """After a loss of power: delete what has changed since then, but for what versions name; how many. Blocking.

        What a version names was synced before that. All else may be half under its own name. Without `used` nothing is
        deleted, but counted.
        """
        gone = 0
        incoming = self.directory / INCOMING
        for folder in [*self._folders(), *([str(incoming)] if incoming.is_dir() else [])]:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.stat(follow_symlinks=False).st_ctime < since:
                        continue
                    if used is None:
                        gone += 1
                    elif entry.name not in used:
                        os.unlink(entry.path)
                        gone += 1
        return gone

    # -- trees
    def link(self, entry: Entry, target: str) -> None:
        """Make a file of a tree: this content with these attributes, never to be written. Blocking.

        Attributes belong to the inode: where the object has others, a copy with the right ones is made, once.
        Fault: not-found. Raises OSError.
        """
        source = self.path(entry.content)
        try:
            status = os.stat(source)
        except FileNotFoundError:
            raise Fault(Code.NOT_FOUND, f"the content of {entry.path!r} is not in this machine's store") from None
        if _fits(status, entry):
            self._link(source, target)
            return
        with self._attributes:
            if os.stat(source).st_nlink == 1 and _plain(entry):
                apply_attributes(source, entry)  # it has just arrived: no tree has it yet
            else:
                source = self._variant(source, entry)
            self._link(source, target)

    def _link(self, source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            self._renew(source)
            os.link(source, target)

    def _variant(self, source: str, entry: Entry) -> str:
        path = f"{source}-{entry.mode:o}-{entry.mtime}-{entry.uid}-{entry.gid}"
        if not os.path.exists(path):
            self._duplicate(source, path, entry)
        return path

    def _renew(self, path: str) -> None:
        """A file can have only so many links: go on with a copy of it under the same name."""
        status = os.stat(path)
        entry = Entry(
            path, 1, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, status.st_size
        )
        self._duplicate(path, path, entry)

    def _duplicate(self, source: str, target: str, entry: Entry) -> None:
        temporary = f"{self._text}/{INCOMING}/{os.getpid()}-v{time.monotonic_ns()}"
        try:
            copy_file(source, temporary)
            apply_attributes(temporary, entry)
            os.rename(temporary, target)
        except BaseException:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            raise

    # -- collecting
    def names(self) -> list[str]:
        """All contents that are here, as hashes. Blocking."""
        found = []
        for folder in self._folders():
            with os.scandir(folder) as entries:
                found += [entry.name for entry in entries if "-" not in entry.name]
        return found

    def collect(self, unused: set[str], older_than: float) -> int:
        """Delete these contents (and their variants) where nothing was done to them since; bytes freed. Blocking."""
        freed = 0
        for folder in self._folders():
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.partition("-")[0] in unused:
                        status = entry.stat(follow_symlinks=False)
                        if status.st_ctime <= older_than:
                            os.unlink(entry.path)
                            freed += status.st_size if status.st_nlink == 1 else 0
        return freed

    def _folders(self) -> list[str]:
        if not self.directory.is_dir():
            return []
        with os.scandir(self.directory) as entries:
            return [entry.path for entry in entries if len(entry.name) == 2 and entry.is_dir()]


def apply_attributes(path: str, entry: Entry) -> None:
    """Owner, permissions and time of an entry for what lies at a path of ours. Raises OSError."""
    try:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):  # without root, or an owner that this user namespace lacks
            raise
    if entry.kind != 3:
        os.chmod(path, entry.mode)
    os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


def _plain(entry: Entry) -> bool:
    """Whether an object itself may have these attributes: it must stay readable for who keeps the store."""
    return entry.uid == 0 and entry.gid == 0 and bool(entry.mode & 0o400)


def _fits(status: os.stat_result, entry: Entry) -> bool:
    return (
        stat.S_IMODE(status.st_mode) == entry.mode
        and status.st_mtime_ns == entry.mtime
        and status.st_uid == entry.uid
        and status.st_gid == entry.gid
    )
