"""Local files by the SHA-256 of their content: what clients upload and containers see.

The server puts files in; the worker of the same machine reads them. A file appears under its
final name only when it is whole and its hash was checked. Content never changes afterwards, so
that a path may be linked into layers and mounts.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from intermodal.disk import disk_fault, sync_files
from intermodal.home import Home
from intermodal.processes import lives
from modal._protocol.errors import Code, Fault
from modal._protocol.writing import append_all

EMPTY = hashlib.sha256(b"").hexdigest()
USUAL_MODE = 0o644  # of every file in the store
MOST_SEEN = 500_000  # hashes that a process remembers to have found

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_numbers = itertools.count()


def check_digest(digest: str) -> str:
    """The digest itself. Raises Fault(invalid) where it is no SHA-256 in hexadecimal."""
    if not _DIGEST.match(digest):
        raise Fault(Code.INVALID, f"{digest[:80]!r} is not a SHA-256 hash in hexadecimal")
    return digest


def _is_what_it_says(path: Path) -> bool:
    """A copy with another mode has no hash of its own: it is made again when it is needed."""
    if not _DIGEST.match(path.name):
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == path.name


class Files:
    """The store of local files of one home. Any number of processes may use it at once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._incoming = home.files / ".incoming"
        self._seen: set[str] = set()  # what this process has found there
        self._durable: set[str] = set()  # what it has synced

    def path(self, digest: str) -> Path:
        """Where the file lies, or will lie. Raises Fault(invalid) for what is no hash."""
        return self._home.file(check_digest(digest))

    def has(self, digest: str) -> bool:
        """Whether the store holds the file."""
        try:
            found = os.stat(self.path(digest))
        except FileNotFoundError:
            return False
        whole = stat.S_ISREG(found.st_mode) and (found.st_size > 0 or digest == EMPTY)
        if whole:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            self._seen.add(digest)
        return whole

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that the store lacks, in their order."""
        return [digest for digest in digests if not self.has(digest)]

    def missing_now(self, digests: Iterable[str]) -> list[str]:
        """As `missing`, of those that `missing` or `has` did not find before: for a second look at the same files."""
        return [digest for digest in digests if digest not in self._seen and not self.has(digest)]

    def put(self, digest: str, content: bytes | memoryview) -> Path:
        """Keep a file. Raises Fault(invalid) where the content has another hash, Fault(exhausted) on a full disk."""
        if self.has(digest):
            return self.path(digest)
        with self.writer(digest) as writer:
            writer.write(content)
            return writer.commit()

    def writer(self, digest: str) -> FileWriter:
        """A file that arrives in parts: `with files.writer(digest) as w: w.write(part) …; w.commit()`."""
        return FileWriter(self.path(digest), digest, self._temporary())

    def with_mode(self, digest: str, mode: int) -> Path:
        """A file of this content with exactly these permission bits, to be hard-linked into a tree.

        A mode belongs to the file and not to its name, so each mode but the usual 0644 is a copy.
        Raises Fault(not-found) where the store lacks the content.
        """
        mode &= 0o7777
        plain = self.path(digest)
        wanted = plain if mode == USUAL_MODE else plain.with_name(f"{digest}-{mode:o}")
        if wanted is not plain and wanted.exists():
            return wanted
        if not self.has(digest):
            raise Fault(Code.NOT_FOUND, f"the file {digest} is not here: it must be uploaded again")
        if wanted is plain:
            return plain
        temporary = self._temporary()
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plain, temporary)
            temporary.chmod(mode)
            temporary.rename(wanted)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_fault(error, wanted) from error
        return wanted

    def make_durable(self, digests: Iterable[str]) -> None:
        """Return once these files and their names are on the disk. Blocking. Fault: not-found, exhausted, internal."""
        wanted = [digest for digest in dict.fromkeys(digests) if digest not in self._durable]
        paths = [self.path(digest) for digest in wanted]
        try:
            sync_files(paths, self._home.files)
        except FileNotFoundError as error:
            raise Fault(Code.NOT_FOUND, f"the file {error.filename} is not here any more: upload it again") from None
        except OSError as error:
            raise disk_fault(error, self._home.files / "file") from error
        if len(self._durable) >= MOST_SEEN:
            self._durable.clear()
        self._durable.update(wanted)

    def mend(self, since: float) -> int:
        """After a loss of power: delete what is newer than this and not what its name says; how many. Blocking."""
        gone = 0
        for folder in self._home.files.iterdir() if self._home.files.is_dir() else ():
            if len(folder.name) != 2:
                continue
            for path in folder.iterdir():
                if path.lstat().st_ctime >= since and not _is_what_it_says(path):
                    path.unlink()
                    gone += 1
        return gone

    def clean(self) -> None:
        """Remove what interrupted uploads of ended processes left."""
        if not self._incoming.is_dir():
            return
        for path in self._incoming.iterdir():
            pid = path.name.partition("-")[0]
            if not pid.isdigit() or not lives(int(pid)):
                path.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self._incoming / f"{os.getpid()}-{next(_numbers)}"


class FileWriter:
    """One file on its way in. Leaving the `with` block without `commit()` forgets it."""

    def __init__(self, target: Path, digest: str, temporary: Path) -> None:
        self._target = target
        self._digest = digest
        self._temporary = temporary
        self._hash = hashlib.sha256()
        self._fd = -1
        self.size = 0  # bytes written so far

    def __enter__(self) -> FileWriter:
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, USUAL_MODE)
        except OSError as error:
            raise disk_fault(error, self._temporary) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._temporary.unlink(missing_ok=True)

    def write(self, part: bytes | memoryview) -> None:
        """Append a part. Blocks on the disk: call it in a thread where parts are large."""
        self._hash.update(part)
        try:
            append_all(self._fd, part)
        except OSError as error:
            raise disk_fault(error, self._temporary) from error
        self.size += len(part)

    def commit(self) -> Path:
        """Check the hash and make the file visible. Raises Fault(invalid) where it is another file."""
        if self._hash.hexdigest() != self._digest:
            raise Fault(Code.INVALID, f"the uploaded content is not the file {self._digest}: it changed on its way")
        os.close(self._fd)
        self._fd = -1
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.chmod(USUAL_MODE)
            self._temporary.rename(self._target)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise disk_fault(error, self._target) from error
        return self._target
