"""Results on the disk: of each one a file with its body, and one that says what it is (docs/web.md)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from intermodal.boots import changed_since

RUNNING, WHOLE, BROKEN = "running", "whole", "broken"
KEPT_SECONDS = 24 * 3600.0  # that a result can be loaded after it was complete
ONE_BYTES = 4 << 30  # of one result
ALL_BYTES = 8 << 30  # of all that are complete; beyond, the oldest go
SPARE_BYTES = 1 << 30  # of the disk that results leave free


class CannotKeepError(Exception):
    """The rest of a result has no room; the text says why."""


class Kept:
    """One result, as far as it has come."""

    def __init__(self, directory: Path, call_id: str, app_id: str) -> None:
        self.call_id = call_id
        self.app_id = app_id
        self.state = RUNNING
        self.status = 0  # 0: the response has not begun
        self.headers = b""
        self.size = 0
        self.over_at = 0.0  # seconds since 1970
        self._head = directory / f"{call_id}.json"
        self._body = directory / f"{call_id}.body"
        self._descriptor = -1

    @classmethod
    def load(cls, head: Path) -> Kept | None:
        """What an earlier server has left; None where it is not to be understood."""
        try:
            said = json.loads(head.read_text())
            found = cls(head.parent, head.stem, str(said["app_id"]))
            found.state, found.status, found.over_at = str(said["state"]), int(said["status"]), float(said["over_at"])
            found.headers = str(said["headers"]).encode("latin-1")
            found.size = found._body.stat().st_size if found._body.exists() else 0
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def begin(self) -> None:
        """A server that starts anew must know that there was one."""
        self._write_head()

    def append(self, data: bytes) -> None:
        """A further part. Raises CannotKeepError."""
        if self.size + len(data) > ONE_BYTES:
            raise CannotKeepError(f"a result that is fetched later may have {ONE_BYTES >> 30} GiB")
        try:
            if self._descriptor < 0:
                room = os.statvfs(self._body.parent)
                if room.f_bavail * room.f_frsize < SPARE_BYTES:
                    raise CannotKeepError("the server's disk is full")
                self._open(os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            while data:
                written = os.pwrite(self._descriptor, data, self.size)
                self.size += written
                data = data[written:]
        except OSError as error:
            raise CannotKeepError(f"it could not be written to the server's disk ({error.strerror})") from None

    def read(self, at: int, size: int) -> bytes:
        """A part of the body. Raises OSError."""
        if at >= self.size:
            return b""
        if self._descriptor < 0:
            self._open(os.O_RDONLY)
        return os.pread(self._descriptor, size, at)

    def end(self, state: str) -> None:
        """Nothing more will come."""
        self.state = state
        self.over_at = time.time()
        self._write_head()

    def rest(self) -> None:
        """Nobody reads or writes it now."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """Remove it."""
        self.rest()
        self._head.unlink(missing_ok=True)
        self._body.unlink(missing_ok=True)

    def _open(self, flags: int) -> None:
        self._descriptor = os.open(self._body, flags | os.O_CLOEXEC, 0o600)

    def _write_head(self) -> None:
        said = {
            "app_id": self.app_id,
            "state": self.state,
            "status": self.status,
            "headers": self.headers.decode("latin-1"),
            "over_at": self.over_at,
        }
        temporary = self._head.with_suffix(".new")
        temporary.write_text(json.dumps(said))
        os.replace(temporary, self._head)


def forget_since(directory: Path, since: float) -> None:
    """After a loss of power: what is newer than this may be half."""
    for path in directory.glob("*"):
        if changed_since(path, since):
            path.unlink(missing_ok=True)


def found_in(directory: Path) -> Iterator[Kept]:
    """What an earlier server has left. What was not complete then will never be."""
    for path in sorted(directory.glob("*.new")):
        path.unlink(missing_ok=True)
    known = set()
    for path in sorted(directory.glob("*.json")):
        kept = Kept.load(path)
        if kept is None:
            path.unlink(missing_ok=True)
            continue
        if kept.state == RUNNING:
            kept.end(BROKEN)
        known.add(kept.call_id)
        yield kept
    for path in sorted(directory.glob("*.body")):
        if path.stem not in known:
            path.unlink(missing_ok=True)


def outdated(every: list[Kept], clock: Callable[[], float] = time.time) -> list[Kept]:
    """Complete results that have been kept long enough, or for which there is no room beside newer ones."""
    now, total, found = clock(), 0, []
    for kept in sorted(every, key=lambda one: one.over_at, reverse=True):
        total += kept.size
        if now - kept.over_at > KEPT_SECONDS or total > ALL_BYTES:
            found.append(kept)
    return found
