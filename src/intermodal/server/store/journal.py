"""A journal: records that are on the disk when their writer hears so, and that are read once, after a crash.

Two files of SEGMENT bytes take turns. They are filled with zeros as soon as there is time for it, so that writing a
record changes neither their length nor where they lie: one `O_DSYNC` write is all that a disk has to do, past the page
cache where the file system lets us (`blocks`). One thread
writes; what arrives while a write is under way is written together by the next one. Where the disk has been quick for a
while the event loop writes itself what all that it has read from its clients needs: that spares changes of threads,
which cost more than such a write.

A file begins with a head block: magic, store, salt, the number of the last record before it, CRC. Then come records:
length, CRC, number, number of the record before, content. The salt is new whenever a file is begun anew and is part of
every CRC, so what an earlier use of the file has left is no record. A write that a power cut has torn is the end of
the journal: nobody was told of what was in it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple
from zlib import crc32

from intermodal.server.store.blocks import Blocks
from modal._protocol.errors import Code, Fault
from modal._protocol.sending import together
from modal._protocol.writing import write_all

SEGMENT = 16 << 20  # bytes of a file
BLOCK = 4096  # bytes that the head has for itself
GROUP = 4 << 20  # bytes that are written together, unless it is one record
MAX_RECORD = 11 << 20  # bytes
MAGIC = b"IMJOURN1"
QUIET = 0.002  # seconds without work after which the files are filled up
BUSY = 4  # groups of a thread that is never without work, after which it does so all the same
CHUNK = 1 << 20  # bytes that are filled up at once
QUICK = 0.001  # seconds that a write takes on a disk that is quick
QUICK_WRITES = 8  # on balance, before the event loop writes itself; a slow one undoes half of the quick ones
MAX_QUICK = 32  # that are counted
ALONE = 8  # writes of a single record, one after another, after which there is one client at work
LINGER = 60e-6  # seconds in which that one asks again: to be woken for it takes longer than most of the work
HERE = 256 << 10  # bytes that it writes at once
NAMES = ("journal-0", "journal-1")
_HEAD = struct.Struct("<8s24sQQ")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<IIQQ")
_SALTED = struct.Struct("<QQQ")
_new_tuple = tuple.__new__  # `_Entry(…)` without the cost of a call in Python
_log = logging.getLogger(__name__)

Done = Callable[["Exception | None"], None]


class Record(NamedTuple):
    number: int  # grows
    before: int  # number of the record before it
    content: bytes


class Segment(NamedTuple):
    """What one of the files holds."""

    before: int
    records: list[Record]


class _Entry(NamedTuple):
    number: int
    content: bytes
    done: Done


# -- reading --------------------------------------------------------------------------------------


def read(folder: Path, store: str, applied: int) -> list[Record]:
    """The records after number `applied`, in order.

    What does not join on to it is left out, and said in the log: the journal of another store, or one that goes on
    where a restored copy of the store has not been yet.
    """
    found = [segment for name in NAMES if (segment := read_segment(folder / name, store)) is not None]
    found.sort(key=lambda segment: segment.before)
    records: list[Record] = []
    last = applied
    for segment in found:
        for record in segment.records:
            if record.number <= last:
                continue
            if record.before > last:
                _log.error(
                    "the journal in %s goes on at record %d, but the store ends at %d: an older copy of the store? "
                    "What dicts and queues took afterwards is left out",
                    folder, record.number, last,
                )  # fmt: skip
                return records
            records.append(record)
            last = record.number
    return records


def read_segment(path: Path, store: str) -> Segment | None:
    """None: there is no journal of this store in it."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < BLOCK:
                return None
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data, memoryview(data) as view:
                return _segment(view, store)
    except FileNotFoundError:
        return None


def _segment(data: memoryview, store: str) -> Segment | None:
    magic, owner, salt, before = _HEAD.unpack_from(data)
    if magic != MAGIC or owner != _owner(store) or _CRC.unpack_from(data, _HEAD.size)[0] != crc32(data[: _HEAD.size]):
        return None
    records: list[Record] = []
    at, last = BLOCK, before
    while at + _RECORD.size <= len(data):
        length, crc, number, previous = _RECORD.unpack_from(data, at)
        end = at + _RECORD.size + length
        if not length or end > len(data) or previous != last:
            break
        content = bytes(data[at + _RECORD.size : end])
        if crc != _crc(salt, number, previous, content):
            break
        records.append(Record(number, previous, content))
        at, last = end, number
    return Segment(before, records)


def _owner(store: str) -> bytes:
    return store.encode()[:24].ljust(24, b"\0")


def _crc(salt: int, number: int, before: int, content: bytes) -> int:
    return crc32(content, crc32(_SALTED.pack(salt, number, before)))


# -- writing --------------------------------------------------------------------------------------


class Journal:
    """Make it on the event loop that will use it, after what `read` finds is in the store."""

    def __init__(self, folder: Path, store: str, last: int) -> None:
        """`last`: number of the last record that there ever was."""
        self.last = last  # that was given out
        self.durable = last  # up to here the disk has everything, or its writers know better
        self.syncs = 0  # writes so far
        self._folder = folder
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Entry] = []
        self._due = False
        self._alone = 0  # writes of a single record, one after another
        self._awake_until = 0.0
        self._queue: SimpleQueue[list[_Entry] | None] = SimpleQueue()
        self._under_way = 0  # groups that the thread has
        self._quick = 0  # writes on balance
        self._state = threading.Condition()
        self._released = last  # up to here the store has everything
        self._stuck: Exception | None = None  # why it has not
        self._files: list[int] = []
        self._blocks: Blocks | None = None  # writes past the page cache, where the file system lets us
        self._unfilled = len(NAMES)  # files that may not have their size yet
        self._since_filled = 0  # groups since the thread made them longer
        self._ends = [last, last]  # number of the last record in each file
        self._turn = 1
        self._at = SEGMENT  # the first record begins a file
        self._salt = 0
        self._written = last
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, content: bytes, done: Done) -> int:
        """`done(None)` is called on the event loop once this is on the disk, or `done(error)`; the record's number."""
        self.last += 1
        self._pending.append(_new_tuple(_Entry, (self.last, content, done)))
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)
        return self.last

    def after(self, done: Done) -> None:
        """`done` is called after those of all that was appended until now."""
        if self.durable == self.last:
            done(None)
            return
        self._pending.append(_Entry(self.last, b"", done))
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what was appended."""
        self._due = False
        if not self._pending or (self._under_way and self._is_quick()):
            return  # in the latter case it is written here once the thread has done what it has
        pending, self._pending = self._pending, []
        if self._may_write_here() and (size := _size(pending)) <= HERE and self._at + size <= SEGMENT:
            together(self._loop, self._deliver, pending, self._try(pending, size))
            self._alone = self._alone + 1 if len(pending) == 1 else 0
            if self._alone >= ALONE:
                self._awake_until = time.perf_counter() + LINGER
                self._loop.call_soon(self._linger)
        else:
            self._give(pending)

    def _linger(self) -> None:
        """Keep the loop awake a little: a client that asks and waits, alone, asks again before it would be asleep."""
        if self._alone >= ALONE and not self._due and time.perf_counter() < self._awake_until:
            self._loop.call_soon(self._linger)

    def _give(self, pending: list[_Entry]) -> None:
        """Let the thread write it."""
        self._under_way += len(pending)
        self._queue.put(pending)

    def _is_quick(self) -> bool:
        """Whether writing takes no longer than asking the thread for it."""
        return self._quick >= QUICK_WRITES and not self._unfilled

    def _may_write_here(self) -> bool:
        """If it is little, and no wait for the store."""
        return self._is_quick() and not self._under_way

    def release(self, number: int) -> None:
        """The store has all up to this number: it need not be kept here any more."""
        with self._state:
            self._released = max(self._released, number)
            self._stuck = None
            self._state.notify()

    def stuck(self, error: Exception) -> None:
        """The store cannot take more: once both files are full `append` fails with this, until `release`."""
        with self._state:
            self._stuck = error
            self._state.notify()

    async def close(self) -> None:
        """Write what was appended, then end. Idempotent."""
        pending, self._pending = self._pending, []
        self._give(pending)
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _written_by_thread(self, group: list[_Entry], error: Exception | None) -> None:
        self._under_way -= len(group)
        together(self._loop, self._deliver, group, error)
        if not self._due:
            self.flush()

    def _deliver(self, group: list[_Entry], error: Exception | None) -> None:
        for entry in group:
            self.durable = entry.number
            try:
                entry.done(error)
            except Exception:  # one listener's defect is not the others' loss
                _log.exception("a listener of the journal failed")

    def _try(self, group: list[_Entry], size: int) -> Exception | None:
        """`size`: see `_size`."""
        began = time.perf_counter()
        try:
            self._write(group, size)
        except (OSError, Fault) as failure:
            self._quick = 0
            return self._explained(failure)
        quick = time.perf_counter() - began < QUICK
        self._quick = min(self._quick + 1, MAX_QUICK) if quick else self._quick // 2
        return None

    # -- the thread
    def _run(self) -> None:
        open_ = True
        while open_:
            entries = self._next()
            if entries is None:
                break
            size = sum(len(entry.content) for entry in entries)
            try:
                while size < GROUP:
                    more = self._queue.get_nowait()
                    if more is None:
                        open_ = False
                        break
                    entries += more
                    size += sum(len(entry.content) for entry in more)
            except Empty:
                pass
            for group in _groups(entries):
                error = self._try(group, _size(group))
                try:
                    self._loop.call_soon_threadsafe(self._written_by_thread, group, error)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    open_ = False
        if self._blocks is not None:
            self._blocks.close()
        for file in self._files:
            os.close(file)

    def _next(self) -> list[_Entry] | None:
        """What is to be written; None: there will be no more."""
        while self._files and self._unfilled:
            if self._since_filled < BUSY:
                try:
                    entries = self._queue.get(timeout=QUIET)
                except Empty:
                    pass
                else:
                    self._since_filled += 1
                    return entries
            self._since_filled = 0
            try:
                if fill(self._files[self._unfilled - 1], SEGMENT):
                    self._unfilled -= 1
                    if not self._unfilled:
                        self._blocks = Blocks.of(self._files)
            except OSError as error:  # a full disk, say: it will be slower
                _log.warning("the journal could not be given its size: %s", error)
                self._unfilled = 0
        return self._queue.get()

    def _write(self, group: list[_Entry], size: int) -> None:
        if self._at + size > SEGMENT and any(entry.content for entry in group):
            self._begin()
        before, salt = self._written, self._salt
        parts: list[bytes] = []
        for number, content, _done in group:
            if content:
                parts += (_RECORD.pack(len(content), _crc(salt, number, before, content), number, before), content)
                before = number
        if not parts:
            return
        data = b"".join(parts)
        self._put(data, self._at)
        self.syncs += 1
        self._at += len(data)
        self._written = self._ends[self._turn] = before

    def _begin(self) -> None:
        """The other file's turn: what it held must be in the store."""
        if not self._files:
            self._files = self._open()
        other = 1 - self._turn
        with self._state:
            while self._released < self._ends[other]:
                if self._stuck is not None:
                    raise self._stuck
                self._state.wait()
        self._turn = other
        self._at = SEGMENT  # should this fail, it is begun again
        self._salt = int.from_bytes(os.urandom(8), "little")
        head = _HEAD.pack(MAGIC, _owner(self._store), self._salt, self._written)
        self._put(head + _CRC.pack(crc32(head)), 0)
        self._at = BLOCK

    def _put(self, data: bytes, at: int) -> None:
        if self._blocks is None or not self._blocks.put(self._turn, data, at):
            write_all(self._files[self._turn], data, at)

    def _open(self) -> list[int]:
        """Both files."""
        files: list[int] = []
        try:
            for name in NAMES:
                flags = os.O_RDWR | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC
                files.append(os.open(self._folder / name, flags, 0o600))
            folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            for file in files:
                os.close(file)
            raise
        return files

    def _explained(self, error: Exception) -> Fault:
        if isinstance(error, Fault):
            return error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Fault(
                Code.EXHAUSTED,
                f"the disk of the server's state directory {self._folder} is full: nothing was changed; "
                "free some space and try again",
            )
        return Fault(
            Code.INTERNAL, f"the server cannot write its journal in {self._folder} ({error}): look at the disk"
        )


def _size(group: list[_Entry]) -> int:
    """Bytes that it takes at most; what only waits for others takes none."""
    return sum([len(entry.content) + _RECORD.size for entry in group])


def fill(file: int, size: int) -> bool:
    """Make a file CHUNK bytes longer, with zeros, which are no record; whether it is so long as it shall be."""
    at = os.fstat(file).st_size
    if at < size:
        at += os.pwrite(file, bytes(min(CHUNK, size - at)), at)
    return at >= size


def _groups(entries: list[_Entry]) -> list[list[_Entry]]:
    """As they are written together."""
    groups: list[list[_Entry]] = []
    size = GROUP
    for entry in entries:
        if size >= GROUP:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += len(entry.content)
    return groups
