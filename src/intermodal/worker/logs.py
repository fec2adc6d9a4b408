"""What a container prints, from its two pipes to log entries: whole lines, attributed, never lost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from modal._protocol.messages.log import LogEntry, Stream

READ_SIZE = 1 << 16  # bytes
LINE_LIMIT = 1 << 16  # bytes; a longer line is passed on in parts
PARTIAL_SECONDS = 0.2  # how long a part of a line waits for its end
DRAIN_LIMIT = 1 << 22  # bytes that are read before one output at most


class LogPump:
    """Reads both pipes of one container. `emit(entries)` takes them; `input_id()` says which input prints now."""

    def __init__(
        self, stdout: int, stderr: int, emit: Callable[[list[LogEntry]], None], input_id: Callable[[], str]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipes = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
        self._partial: dict[int, bytes] = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self._emit = emit
        self._input_id = input_id
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False
        self._closed = False

    def start(self) -> None:
        """Read as output comes."""
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
            data = os.read(self._pipes[stream], size)
        except BlockingIOError:
            return 0
        except OSError:
            self.stop()
            return 0
        if data:
            self._take(stream, data)
        return len(data)

    def _take(self, stream: int, data: bytes) -> None:
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
        return LogEntry(time.time(), stream, data.decode("utf-8", "replace"), self._input_id())

    def close(self) -> None:
        """Read what is left, pass on unfinished lines, and end."""
        if self._closed:
            return
        self.drain()
        self.stop()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for stream, data in self._partial.items():
            if data:
                self._emit([self._entry(stream, data)])
        self._partial = {Stream.STDOUT: b"", Stream.STDERR: b""}


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
