"""What containers print, by app: appended to files, read back from them, followed live.

Every entry of an app has a number, from 1 on. An app's log is a directory of segments; a segment is
named after the first entry in it and holds one JSON line an entry. At most `APP_LIMIT` bytes of an
app are kept: the oldest segment goes when a new one begins. What was appended survives the end of
the server at any moment; a crash of the whole machine may cost the last seconds.

A follower reads at its own pace: what has left the short tail in memory it reads from the files, so
that a slow one costs no memory. What has left the files too is replaced by one line that says so.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from intermodal.server.services.log_segments import Position, Segments, encode
from modal._protocol.messages.log import LogBatch, LogEntry, Stream

SEGMENT_LIMIT = 8 << 20  # bytes
APP_LIMIT = 64 << 20  # bytes
TAIL_LIMIT = 64 << 10  # bytes of text in memory for followers that keep up
BATCH_TEXT = 256 << 10  # bytes of text in one batch
NUMBERS_READ = 16 << 20  # bytes: more than a worker has under way
OPEN_LOGS = 256  # app logs with an open file, at most
_log = logging.getLogger(__name__)


class AppLog:
    """The log of one app."""

    def __init__(self, app_id: str, directory: Path, segment_limit: int, app_limit: int) -> None:
        self.app_id = app_id
        self.segments = Segments(directory, segment_limit, app_limit)
        self.seq = self.segments.last_seq()  # entries so far
        self.closed = False  # nothing more comes
        self.tail: deque[tuple[int, LogEntry]] = deque()
        self.tail_size = 0
        self.followers = 0
        self.waiting: set[asyncio.Future[None]] = set()
        self.failing = False  # the last write failed
        self.used = 0.0

    def append(self, entries: Iterable[LogEntry]) -> None:
        first = self.seq + 1
        lines = []
        for entry in entries:
            self.seq += 1
            lines.append(encode(self.seq, entry))
            if self.followers:
                self.tail.append((self.seq, entry))
                self.tail_size += len(entry.text) + 64
        while self.tail_size > TAIL_LIMIT and len(self.tail) > 1:
            self.tail_size -= len(self.tail.popleft()[1].text) + 64
        if not lines:
            return
        try:
            self.segments.write(first, b"".join(lines))
            self.failing = False
        except OSError as error:
            if not self.failing:
                reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error)
                _log.error("output of app %s is not being kept: %s", self.app_id, reason)
            self.failing = True
        self.wake()

    def wake(self) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(None)
        self.waiting.clear()


class Logs:
    """The logs of all apps. `append` and `seq` are plain calls: the writes go to the page cache."""

    def __init__(self, directory: Path, segment_limit: int = SEGMENT_LIMIT, app_limit: int = APP_LIMIT) -> None:
        self._directory = directory
        self._segment_limit = segment_limit
        self._app_limit = app_limit
        self._apps: dict[str, AppLog] = {}

    def append(self, app_id: str, entries: list[LogEntry]) -> None:
        """Keep entries and show them to whoever follows. Never raises for a full disk: it is said once in the log."""
        self._app(app_id).append(entries)

    def seq(self, app_id: str) -> int:
        """Entries of the app so far."""
        return self._app(app_id).seq

    def last_numbers(self, app_id: str) -> dict[str, int]:
        """Container id -> the number of its last entry that is kept, of those who have written lately."""
        return self._app(app_id).segments.last_numbers(NUMBERS_READ)

    def say(self, app_id: str, text: str, container_id: str = "", function_name: str = "") -> None:
        """A line of the platform's own."""
        line = text if text.endswith("\n") else text + "\n"
        entry = LogEntry(time.time(), Stream.SYSTEM, line, "", container_id, "", function_name)
        self.append(app_id, [entry])

    def close(self, app_id: str) -> None:
        """The app has ended: followers get what is left, then their end."""
        log = self._app(app_id)
        log.closed = True
        log.wake()
        log.segments.close()
        if not log.followers:
            self._apps.pop(app_id, None)

    def forget(self, app_id: str) -> None:
        """Delete the files."""
        self.close(app_id)
        self._apps.pop(app_id, None)
        shutil.rmtree(self._directory / app_id, ignore_errors=True)

    def sync(self) -> None:
        """To the disk, and close all files (the server ends)."""
        for log in self._apps.values():
            log.segments.close(sync=True)

    async def follow(
        self, app_id: str, from_seq: int = 0, *, live: bool = True, container_id: str = ""
    ) -> AsyncIterator[LogBatch]:
        """Entries after `from_seq`, then (live) new ones until the app's log is closed."""
        log = self._app(app_id)
        log.followers += 1
        try:
            async for batch in _follow(log, from_seq, live):
                if container_id:
                    batch.entries = [entry for entry in batch.entries if entry.container_id in (container_id, "")]
                if batch.entries:
                    yield batch
        finally:
            log.followers -= 1
            if not log.followers:
                log.tail.clear()
                log.tail_size = 0

    def _app(self, app_id: str) -> AppLog:
        log = self._apps.get(app_id)
        if log is None:
            self._make_room()
            log = AppLog(app_id, self._directory / app_id, self._segment_limit, self._app_limit)
            self._apps[app_id] = log
        log.used = time.monotonic()
        return log

    def _make_room(self) -> None:
        if len(self._apps) < OPEN_LOGS:
            return
        idle = [log for log in self._apps.values() if not log.followers]
        for log in sorted(idle, key=lambda log: log.used)[: len(self._apps) - OPEN_LOGS + 1]:
            log.segments.close()
            del self._apps[log.app_id]


async def _follow(log: AppLog, from_seq: int, live: bool) -> AsyncIterator[LogBatch]:
    seq = from_seq
    position: Position | None = None
    while True:
        if seq >= log.seq:
            if log.closed or not live:
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            log.waiting.add(waiter)
            try:
                await waiter
            finally:
                log.waiting.discard(waiter)
            continue
        if log.tail and log.tail[0][0] <= seq + 1:
            position = None
            entries, seq = _from_tail(log.tail, seq)
        else:
            if position is None:
                position = log.segments.position(seq)
            found, reached = position.read(seq, BATCH_TEXT)
            await asyncio.sleep(0)  # a long log must not hold up the others
            if not found and reached == seq:
                reached = log.tail[0][0] - 1 if log.tail else log.seq  # never written: the disk was full
                position = None
            entries = [entry for _seq, entry in found]
            lost = reached - seq - len(found)
            if lost > 0:
                text = f"[{lost} earlier entries are not kept any more]\n"
                entries.insert(0, LogEntry(entries[0].time if entries else time.time(), Stream.SYSTEM, text))
            seq = reached
        yield LogBatch(log.app_id, entries, seq)


def _from_tail(tail: deque[tuple[int, LogEntry]], seq: int) -> tuple[list[LogEntry], int]:
    entries: list[LogEntry] = []
    size = 0
    for number, entry in tail:
        if number <= seq:
            continue
        if entries and size + len(entry.text) > BATCH_TEXT:
            break
        entries.append(entry)
        size += len(entry.text)
        seq = number
    return entries, seq
