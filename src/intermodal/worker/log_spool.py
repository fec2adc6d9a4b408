"""Log entries that the server has not acknowledged: in memory to send them again, and in a file for the next worker.

A worker that is killed has read lines out of the container's pipes that nobody else can read again. So the kernel moves
what is in a pipe to a second file (`catch`), where it stays until the entries that are made of it have their numbers
and are in the page cache too. The server acknowledges numbers and ignores what it knows.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from pathlib import Path

from modal._protocol.errors import ProtocolError
from modal._protocol.messages.log import LogEntry
from modal._protocol.messages.worker import ContainerLogs

HEADER = 20  # bytes: the number of acknowledged entries, in decimal
COMPACT_BYTES = 16 << 20  # of the file, above which what is acknowledged is left out
ENTRY_COST = 64  # bytes that an entry counts for beyond its text
_CAUGHT = struct.Struct(">QB")  # how many entries there were before, and the stream; then what was in the pipe


class LogSpool:
    """The entries of one container. `count` is how many there were; the file survives the worker."""

    def __init__(self, path: Path, app_id: str, container_id: str) -> None:
        self.count = 0
        self.size = 0  # bytes that are not acknowledged, about
        self._app_id = app_id
        self._container_id = container_id
        self._path = path
        self._waiting: deque[tuple[ContainerLogs, int]] = deque()
        self._file = -1
        self._file_size = 0
        self._catch_path = path.with_suffix(".caught")
        self._catch = -1

    def open(self) -> None:
        """Begin, or go on where an earlier worker was killed."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(os.dup(self._file), "rb") as file:
            head = file.read(HEADER)
            rest = file.read()
        self.count = int(head) if head.strip().isdigit() else 0
        whole = self._load(rest)
        self._file_size = HEADER + whole
        self._write_head(self.count - sum(len(message.entries) for message, _cost in self._waiting))
        os.ftruncate(self._file, self._file_size)
        try:
            self._catch = os.open(self._catch_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            pass  # the disk is full: what comes is read into memory

    def left(self) -> tuple[int, bytes] | None:
        """The stream, and what an earlier worker had moved out of its pipe and made no entries of."""
        data = os.pread(self._catch, os.fstat(self._catch).st_size, 0) if self._catch >= 0 else b""
        if len(data) > _CAUGHT.size:
            count, stream = _CAUGHT.unpack_from(data)
            if count == self.count:
                return stream, data[_CAUGHT.size :]
        self.caught()
        return None

    def catch(self, stream: int, pipe: int, size: int) -> bytes:
        """What is in a pipe, up to so many bytes; b"" where nobody writes any more. `caught` has to follow.

        Raises BlockingIOError where it is empty for now.
        """
        if self._catch < 0:
            return os.read(pipe, size)
        try:
            os.pwrite(self._catch, _CAUGHT.pack(self.count, stream), 0)
            moved = os.splice(pipe, self._catch, size, offset_dst=_CAUGHT.size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:  # the disk is full
            return os.read(pipe, size)
        return os.pread(self._catch, moved, _CAUGHT.size)

    def caught(self) -> None:
        """Entries were made of it."""
        if self._catch >= 0:
            os.ftruncate(self._catch, 0)

    def _load(self, data: bytes) -> int:
        """Take in what is not acknowledged; how many bytes are whole records."""
        at = 0
        while len(data) - at >= 4:
            size = int.from_bytes(data[at : at + 4], "big")
            if len(data) - at - 4 < size:
                break  # the worker died in the middle of it
            try:
                message = ContainerLogs.decode(data[at + 4 : at + 4 + size], b"")
            except ProtocolError:
                break
            at += 4 + size
            last = message.first + len(message.entries) - 1
            if last > self.count:
                self.count = last
                self._keep(message)
        return at

    def put(self, entries: list[LogEntry]) -> ContainerLogs:
        """Keep entries; the message that brings them to the server."""
        message = ContainerLogs(self._app_id, self._container_id, entries, self.count + 1)
        self.count += len(entries)
        self._keep(message)
        if self._file >= 0:
            header, _body = message.encode()
            record = len(header).to_bytes(4, "big") + header
            try:
                if os.pwrite(self._file, record, self._file_size) == len(record):
                    self._file_size += len(record)
            except OSError:
                pass  # the disk is full: the entry is in memory, as far as that goes, and the next one takes its place
        return message

    def _keep(self, message: ContainerLogs) -> None:
        cost = sum(len(entry.text) + ENTRY_COST for entry in message.entries)
        self._waiting.append((message, cost))
        self.size += cost

    def acknowledged(self, count: int) -> None:
        """The server has the entries up to this number."""
        while self._waiting and self._waiting[0][0].first + len(self._waiting[0][0].entries) - 1 <= count:
            _message, cost = self._waiting.popleft()
            self.size -= cost
        if self._file < 0:
            return
        try:
            if not self._waiting:
                self._write_head(self.count)
                self._file_size = HEADER
                os.ftruncate(self._file, HEADER)
            elif self._file_size > COMPACT_BYTES:
                self._compact()
        except OSError:
            pass  # the disk is full: the next worker sends some entries again, which the server knows by their numbers

    def _write_head(self, acknowledged: int) -> None:
        os.pwrite(self._file, f"{acknowledged:{HEADER}}".encode(), 0)

    def _compact(self) -> None:
        messages = self.waiting()
        data = [f"{messages[0].first - 1:{HEADER}}".encode()]
        for message in messages:
            header, _body = message.encode()
            data.append(len(header).to_bytes(4, "big") + header)
        whole = b"".join(data)
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(whole)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.rename(self._path)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._file_size = len(whole)

    def waiting(self) -> list[ContainerLogs]:
        """What the server has not acknowledged, in order."""
        return [message for message, _cost in self._waiting]

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def close(self) -> None:
        """Let go of the file. The entries stay in memory until they are acknowledged."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._catch >= 0:
            os.close(self._catch)
            self._catch = -1
