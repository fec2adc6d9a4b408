"""What a container prints, from its two pipes to log entries: whole lines, attributed, never lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from intermodal.worker.log_spool import LogSpool
from modal._protocol.messages.log import LogEntry, Stream
from modal._protocol.messages.worker import OUTPUT_MARK

READ_SIZE = 1 << 16  # bytes
LINE_LIMIT = 1 << 16  # bytes; a longer line is passed on in parts
PARTIAL_SECONDS = 0.2  # how long a part of a line waits for its end
DRAIN_LIMIT = 1 << 22  # bytes that are read before one output at most
MARK_LIMIT = 128  # bytes of a mark with its input's id, at most


class LogPump:
    """Reads both pipes of one container. `emit(entries)` takes them.

    `attribute(mark)` says which input a line belongs to that came behind this mark (None: behind none).
    `spool` is open, and `emit` puts what it gets into it.
    """

    def __init__(
        self,
        stdout: int,
        stderr: int,
        emit: Callable[[list[LogEntry]], None],
        attribute: Callable[[str | None], str],
        spool: LogSpool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
        self._partial: dict[int, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}  # unfinished lines
        self._cut: dict[int, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}  # what may be the beginning of a mark
        self._marks: dict[int, str | None] = {Stream.STDOUT: None, Stream.STDERR: None}
        self._give = emit
        self._read_entries: list[LogEntry] | None = None  # of what is being read: they are kept together, or not at all
        self._attribute = attribute
        self._spool = spool
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False
        self._closed = False
        self._left = spool.left()  # by a worker that was killed

    def start(self) -> None:
        """Read as output comes."""
        left, self._left = self._left, None
        if left is not None:
            self._take_caught(*left)
        if not self._reading and not self._closed:
            self._reading = True
            for stream, descriptor in self._pipes.items():
                self._loop.add_reader(descriptor, self._readable, stream)

    def stop(self) -> None:
        """Do not read for now: the container waits when its pipe is full."""
        if self._reading:
            self._reading = False
            for descriptor in self._pipes.values():
                self._loop.remove_reader(descriptor)

    def _readable(self, stream: int) -> None:
        self._read(stream, READ_SIZE)

    def drain(self) -> None:
        """Read what has been printed up to now."""
        if self._closed:
            return
        for stream in self._pipes:
            left = DRAIN_LIMIT
            while left > 0:
                size = self._read(stream, READ_SIZE)
                if size < READ_SIZE:
                    break
                left -= size

    def _read(self, stream: int, size: int) -> int:
        try:
            data = self._spool.catch(stream, self._pipes[stream], size)
        except BlockingIOError:
            return 0
        except OSError:
            self.stop()
            return 0
        if data:
            self._take_caught(stream, data)
        else:  # nobody can write any more
            self._loop.remove_reader(self._pipes[stream])
        return len(data)

    def _take_caught(self, stream: int, data: bytes) -> None:
        """Its entries are kept before it is forgotten, and all at once."""
        entries = self._read_entries = []
        try:
            self._take(stream, data)
        finally:
            self._read_entries = None
            if entries:
                self._give(entries)
            self._spool.caught()

    def _emit(self, entries: list[LogEntry]) -> None:
        if self._read_entries is None:
            self._give(entries)
        else:
            self._read_entries += entries

    def _take(self, stream: int, data: bytes) -> None:
        data = self._cut[stream] + data
        self._cut[stream] = b""
        while b"\x00" in data:
            at = data.find(OUTPUT_MARK)
            if at < 0:
                keep = _mark_begins(data)
                if keep:
                    self._cut[stream] = data[-keep:]
                    data = data[:-keep]
                break
            end = data.find(b"\x00", at + len(OUTPUT_MARK), at + MARK_LIMIT)
            if end < 0 and len(data) - at < MARK_LIMIT:
                self._cut[stream] = data[at:]
                data = data[:at]
                break
            self._take_text(stream, data[:at])
            self._finish_line(stream)
            if end < 0:  # no mark of ours
                data = data[at + len(OUTPUT_MARK) :]
            else:
                self._marks[stream] = data[at + len(OUTPUT_MARK) : end].decode("ascii", "replace")
                data = data[end + 1 :]
        self._take_text(stream, data)

    def _finish_line(self, stream: int) -> None:
        """Pass on what waits for its end of line."""
        rest = self._partial[stream]
        if rest:
            self._partial[stream] = b""
            self._emit([self._entry(stream, rest)])

    def _take_text(self, stream: int, data: bytes) -> None:
        if not data:
            return
        data = self._partial[stream] + data
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= LINE_LIMIT:
            end = _character_edge(data)
        self._partial[stream] = data[end:]
        if end:
            self._emit([self._entry(stream, data[:end])])
        if self._partial[stream] and self._timer is None:
            self._timer = self._loop.call_later(PARTIAL_SECONDS, self._flush_partials)

    def _flush_partials(self) -> None:
        self._timer = None
        for stream, data in self._partial.items():
            end = _character_edge(data)
            if end:
                self._partial[stream] = data[end:]
                self._emit([self._entry(stream, data[:end])])

    def _entry(self, stream: int, data: bytes) -> LogEntry:
        return LogEntry(time.time(), stream, data.decode("utf-8", "replace"), self._attribute(self._marks[stream]))

    def close(self) -> None:
        """Read what is left, pass on unfinished lines, and end."""
        if self._closed:
            return
        self.drain()
        self.stop()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for stream, data in self._cut.items():
            self._take_text(stream, data)
            self._finish_line(stream)


def _mark_begins(data: bytes) -> int:
    """How many bytes at the end may be the beginning of a mark."""
    for size in range(min(len(data), len(OUTPUT_MARK) - 1), 0, -1):
        if OUTPUT_MARK.startswith(data[-size:]):
            return size
    return 0


def _character_edge(data: bytes) -> int:
    """Where the data may be cut without tearing a UTF-8 character apart."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return len(data)
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) if back >= need else len(data) - back
    return len(data)
