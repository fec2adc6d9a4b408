"""Large objects on their way in over connections that may break: what has come stays, the next upload goes on there.

Only the length of such a part is trusted: its hash is taken again, from the disk, when it is gone on with.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from intermodal.disk import disk_fault
from intermodal.files import USUAL_MODE, FileWriter, check_digest
from modal._protocol.errors import Code, Fault

PREFIX = "begun-"  # of the parts' names
CHUNK = 1 << 20  # bytes


class Begun:
    """The parts in one directory. One process uses it; its methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._active: dict[str, PartWriter] = {}  # by digest

    def size(self, digest: str, token: str) -> int:
        """How much there is to go on with, in this upload; 0 where another one is under way. Fault: invalid."""
        path = self._path(digest)
        with self._lock:
            active = self._active.get(digest)
            if active is not None:
                if active.token != token:
                    return 0
                active.abandon()
                del self._active[digest]
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return 0

    def writer(self, target: Path, digest: str, token: str, begin: int) -> PartWriter | None:
        """For what comes behind the first `begin` bytes. None: another upload of it is under way. Fault: conflict."""
        path = self._path(digest)
        with self._lock:
            if digest in self._active:
                if begin:
                    raise Fault(Code.CONFLICT, f"another upload of {digest} is under way: send it from its beginning")
                return None
            made = self._active[digest] = PartWriter(target, digest, path, begin, token, self._ended)
        return made

    def collect(self, older_than: float) -> None:
        """Delete parts that nobody went on with since."""
        if not self._directory.is_dir():
            return
        for path in self._directory.glob(f"{PREFIX}*"):
            with self._lock:
                if path.name[len(PREFIX) :] not in self._active and path.stat().st_mtime <= older_than:
                    path.unlink()

    def _path(self, digest: str) -> Path:
        return self._directory / f"{PREFIX}{check_digest(digest)}"

    def _ended(self, writer: PartWriter) -> None:
        with self._lock:
            if self._active.get(writer.digest) is writer:
                del self._active[writer.digest]


class PartWriter(FileWriter):
    """Leaving the `with` block without `commit()` keeps what has come. Entering it may have to read much."""

    def __init__(
        self, target: Path, digest: str, path: Path, begin: int, token: str, ended: Callable[[PartWriter], None]
    ) -> None:
        super().__init__(target, digest, path)
        self.digest = digest
        self.token = token
        self._begin = begin
        self._ended = ended
        self._writing = threading.Lock()
        self._abandoned = False

    def __enter__(self) -> PartWriter:
        try:
            with self._writing:
                self._open()
        except BaseException:
            self._ended(self)
            raise
        return self

    def _open(self) -> None:
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, USUAL_MODE)
            if os.fstat(self._fd).st_size < self._begin:
                raise Fault(Code.CONFLICT, f"the beginning of {self.digest} is not here any more: send it again")
            os.ftruncate(self._fd, self._begin)
            while self.size < self._begin:
                self._check()
                part = os.pread(self._fd, CHUNK, self.size)
                self._hash.update(part)
                self.size += len(part)
            os.lseek(self._fd, self._begin, os.SEEK_SET)
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise disk_fault(error, self._temporary) from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()
        self._ended(self)

    def abandon(self) -> None:
        """Write no more; what has come stays."""
        self._abandoned = True
        with self._writing:
            self._close()

    def _check(self) -> None:
        if self._abandoned:
            raise Fault(Code.CONFLICT, f"the upload of {self.digest} goes on over another connection")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, part: bytes | memoryview) -> None:
        """See FileWriter. Fault: conflict where the upload goes on elsewhere."""
        with self._writing:
            self._check()
            super().write(part)

    def commit(self) -> Path:
        """See FileWriter; what has the wrong hash is deleted."""
        with self._writing:
            self._check()
            try:
                return super().commit()
            except Fault:
                self._temporary.unlink(missing_ok=True)
                raise
