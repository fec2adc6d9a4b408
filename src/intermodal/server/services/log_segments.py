"""The files of one app's log: `<first entry's number, 16 digits>.log`, one JSON line an entry, numbers first."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from modal._protocol.messages.log import LogEntry

READ_SIZE = 256 << 10  # bytes
_NAME_DIGITS = 16


def encode(seq: int, entry: LogEntry) -> bytes:
    """The line of an entry."""
    fields = [
        seq, entry.time, entry.stream, entry.text, entry.input_id, entry.container_id, entry.function_id,
        entry.function_name, entry.number,
    ]  # fmt: skip
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> tuple[int, LogEntry] | None:
    """(number, entry) of a line, None where it is damaged."""
    try:
        seq, *fields = json.loads(line)
        return int(seq), LogEntry(*fields)
    except (ValueError, TypeError):
        return None


class Segments:
    """Writes the newest segment; deletes the oldest ones."""

    def __init__(self, directory: Path, segment_limit: int, app_limit: int) -> None:
        self.directory = directory
        self._segment_limit = segment_limit
        self._app_limit = app_limit
        self._fd = -1
        self._size = 0

    def names(self) -> list[int]:
        """The first numbers of all segments, in order."""
        try:
            found = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(
            int(name[:_NAME_DIGITS]) for name in found if name.endswith(".log") and name[:_NAME_DIGITS].isdigit()
        )

    def path(self, first: int) -> Path:
        return self.directory / f"{first:0{_NAME_DIGITS}}.log"

    def last_seq(self) -> int:
        """The number of the last whole entry; what a loss of power or an interrupted write left behind is cut off."""
        for first in reversed(self.names()):
            path = self.path(first)
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                whole, line = _last_line(file, size)
                while line and decode(line) is None:  # zeros, say, where the disk has not got what was written
                    whole, line = _last_line(file, whole - len(line) - 1)
                if whole < size:
                    file.truncate(whole)
            found = decode(line) if line else None
            if found is not None:
                return found[0]
            if first > 1:
                return first - 1
        return 0

    def last_numbers(self, size: int) -> dict[str, int]:
        """Container id -> the number of its last entry, as far as the last `size` bytes know."""
        found: dict[str, int] = {}
        for first in reversed(self.names()):
            with self.path(first).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - size))
                for line in file.read().split(b"\n"):
                    decoded = decode(line) if line else None
                    if decoded is not None and decoded[1].number:
                        container_id, number = decoded[1].container_id, decoded[1].number
                        found[container_id] = max(number, found.get(container_id, 0))
            size -= end
            if size <= 0:
                break
        return found

    def write(self, first: int, data: bytes) -> None:
        """Append whole lines, the first of them of entry `first`. Raises OSError; nothing is kept then."""
        if self._fd < 0 or self._size >= self._segment_limit:
            self._open(first)
        view, before = memoryview(data), self._size
        try:
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            if self._size > before:  # a part of it was written
                os.ftruncate(self._fd, before)
                self._size = before
            raise

    def close(self, sync: bool = False) -> None:
        if self._fd >= 0:
            if sync:
                os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1

    def position(self, seq: int) -> Position:
        """Where to read what comes after entry `seq`."""
        names = self.names()
        at = next((first for first in reversed(names) if first <= seq + 1), names[0] if names else 1)
        return Position(self, at, _offset_of(self.path(at), seq))

    def _open(self, first: int) -> None:
        names = self.names()
        path = self.path(names[-1]) if names else self.path(first)
        if self._fd >= 0 or (names and path.stat().st_size >= self._segment_limit):
            path = self.path(first)
        self.close()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size
        keep = max(1, self._app_limit // self._segment_limit)
        for old in self.names()[:-keep]:
            self.path(old).unlink(missing_ok=True)


class Position:
    """A reader's place: segment and offset."""

    def __init__(self, segments: Segments, first: int, offset: int) -> None:
        self._segments = segments
        self._first = first
        self._offset = offset

    def read(self, seq: int, limit: int) -> tuple[list[tuple[int, LogEntry]], int]:
        """Some entries after `seq`, at most about `limit` bytes of text, and the number reached (`seq`: no more)."""
        found: list[tuple[int, LogEntry]] = []
        size = 0
        while size < limit:
            lines, consumed = self._lines()
            if not lines:
                if not self._next():
                    break
                continue
            for line in lines:
                self._offset += len(line) + 1
                entry = decode(line)
                if entry is None or entry[0] <= seq:
                    continue
                found.append(entry)
                size += len(entry[1].text)
                if size >= limit:
                    break
            if found and consumed < READ_SIZE:
                break
        return found, found[-1][0] if found else seq

    def _lines(self) -> tuple[list[bytes], int]:
        """Whole lines from here on, one read's worth; a line longer than a read is read whole."""
        size = READ_SIZE
        while True:
            try:
                with self._segments.path(self._first).open("rb") as file:
                    file.seek(self._offset)
                    data = file.read(size)
            except FileNotFoundError:
                return [], 0
            end = data.rfind(b"\n")
            if end >= 0:
                return data[:end].split(b"\n"), len(data)
            if len(data) < size:
                return [], len(data)
            size *= 4

    def _next(self) -> bool:
        """On to the next segment, False where this is the last."""
        later = [first for first in self._segments.names() if first > self._first]
        if not later:
            return False
        self._first, self._offset = later[0], 0
        return True


def _offset_of(path: Path, seq: int) -> int:
    """An offset at a line's start, at most one read's worth before what comes after entry `seq`."""
    try:
        with path.open("rb") as file:
            low, high = 0, file.seek(0, os.SEEK_END)
            while high - low > READ_SIZE:
                middle = (low + high) // 2
                file.seek(middle)
                file.readline()
                start = file.tell()
                number = file.readline()[1:20].partition(b",")[0]
                if start < high and number.isdigit() and int(number) <= seq:
                    low = start
                else:
                    high = middle
            return low
    except FileNotFoundError:
        return 0


def _last_line(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """(offset behind the last whole line, that line) of an open file of this size."""
    step, data = 1 << 16, b""
    start = size
    while start > 0:
        start = max(0, start - step)
        file.seek(start)
        data = file.read(size - start)
        end = data.rfind(b"\n")
        if end >= 0:
            begin = data.rfind(b"\n", 0, end)
            if begin >= 0 or start == 0:
                return start + end + 1, data[begin + 1 : end]
        step *= 4
    return 0, b""
