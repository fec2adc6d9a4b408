"""Dicts: every change is on the disk before it is answered; entries expire when nobody uses them.

What is changed, and what was used lately, is in memory; see `store.write_behind` about how it becomes durable. A dict
that is small is wholly in memory, so that also what is not there is known without asking the store.

A read counts as use. It is noted once in TOUCH_STEP for each entry, and reaches the disk a little later; an entry
therefore lives for between IDLE_SECONDS and TOUCH_STEP longer.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from intermodal.server.services.dict_notes import LateNotes
from intermodal.server.services.dict_table import UNKNOWN, Known, Memory, Table, Unknown
from intermodal.server.services.values import Values
from intermodal.server.store import dicts as sql
from intermodal.server.store.dicts import DictStore, Entry, Popped
from intermodal.server.store.write_behind import WriteBehind
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.message import Message
from modal._protocol.messages.dict import (
    MAX_BODY,
    MAX_KEY,
    MAX_LEN,
    MAX_UPDATE,
    MAX_VALUE,
    DictGet,
    DictPage,
    DictPop,
    DictPut,
    DictScan,
    DictValue,
)
from modal._protocol.messages.object import Stored

IDLE_SECONDS = 7 * 86400.0
TOUCH_STEP = 600.0  # seconds
POPPED_KEPT = 600.0  # seconds that a popped value waits for a client that lost its connection
MAX_SCAN = 10_000  # entries in one page
MAX_MEMORY = 32 << 20  # bytes of entries that the store has too
MAX_TABLES = 10_000
WHOLE = 1000  # entries of a dict that is read wholly when it is first used
WHOLE_BYTES = 1 << 20

_new_tuple = tuple.__new__  # `Entry(…)` without the cost of a call in Python


class Dicts:
    """`find(object_id)` gives the dict's number; Fault(not-found) where there is none."""

    def __init__(
        self,
        store: DictStore,
        behind: WriteBehind,
        values: Values,
        find: Callable[[str], Awaitable[int]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._behind = behind
        self._values = values
        self._find = find
        self._now = now
        self._memory = Memory()
        self._tables: OrderedDict[str, Table] = OrderedDict()  # by object id, the latest used one last
        self._changed: dict[Table, None] = {}
        self._drops = 0  # dicts that were deleted so far
        self._with_blobs: set[int] = set()
        self._popped: dict[bytes, Popped] = {}  # by token: not in the store yet
        self._notes = LateNotes(store, now, self._delete)
        self._tasks: set[asyncio.Task[Any]] = set()
        behind.sources.append(self)

    async def open(self) -> None:
        """Before anything is asked."""
        self._with_blobs = await self._store.with_blobs()
        for number in await self._store.orphans():
            self._background(self._drop(number))

    def register(self, handlers: Handlers) -> None:
        handlers.fast(DictGet)(self._take_get)
        handlers.fast(DictPut)(self._take_put)
        handlers.fast(DictPop)(self._take_pop)
        handlers.unary(DictScan)(self._scan)

    async def close(self) -> None:
        """Note what was read."""
        for task in self._tasks:
            task.cancel()
        await self._notes.close()

    # -- reading
    def _take_get(self, connection: Connection, stream_id: int, message: DictGet) -> None:
        table = self._tables.get(message.dict_id)
        if table is not None:
            entry = table.get(message.key)
            if not isinstance(entry, Unknown):
                self._tables.move_to_end(message.dict_id)
                self._answer_get(connection, stream_id, message, table, entry)
                return
        self._answer_later(connection, stream_id, self._get(connection, stream_id, message))

    async def _get(self, connection: Connection, stream_id: int, message: DictGet) -> None:
        table = await self._table(message.dict_id)
        entry = await self._entry(table, message.key)
        self._answer_get(connection, stream_id, message, table, entry)

    def _answer_get(
        self, connection: Connection, stream_id: int, message: DictGet, table: Table, entry: Entry | None
    ) -> None:
        if entry is not None:
            now = self._now()
            if entry.used_at < now - TOUCH_STEP:
                if entry.used_at < self._cutoff():
                    entry = None
                else:
                    table.touched(message.key, entry, now)
                    self._notes.touched(table.number, message.key)
        self._respond(connection, stream_id, _answer(entry, message.value), table)

    def _respond(self, connection: Connection, stream_id: int, answer: Message, table: Table) -> None:
        """Nobody hears of a change before it is durable."""
        if table.latest > self._behind.durable:
            self._behind.after(lambda _error: None if connection.closed else connection.respond(stream_id, answer))
        elif not connection.closed:
            connection.respond(stream_id, answer)

    async def _entry(self, table: Table, key: bytes) -> Entry | None:
        """What is there, from wherever that is known."""
        while True:
            found = table.get(key)
            if not isinstance(found, Unknown):
                return found
            before = table.settlements
            entry = await self._store.get(table.number, key, self._cutoff())
            found = table.get(key)
            if not isinstance(found, Unknown):
                return found
            if table.settlements == before:  # else what was read may be older than what the store was given meanwhile
                if entry is not None:
                    table.learn([(key, entry)])
                    self._shrink()
                return entry

    async def _scan(self, connection: Connection, message: DictScan) -> DictPage:
        table = await self._table(message.dict_id)
        limit = max(1, min(message.limit, MAX_SCAN))
        if table.complete and len(table.known) <= MAX_SCAN:
            rows, more = table.page(message.after, self._cutoff(), message.values, limit, MAX_BODY)
        else:
            await self._settle(table)
            rows, more = await self._store.after(
                table.number, message.after, self._cutoff(), message.values, limit, MAX_BODY
            )
        keys = [row[0] for row in rows]  # also where they are not asked for: the next page begins behind the last one
        if not message.values:
            return DictPage(keys, more=more)
        now = self._now()
        old = now - TOUCH_STEP
        for key, entry in rows:
            if entry.used_at < old:
                table.touched(key, entry, now)
                self._notes.touched(table.number, key)
        blobs = [row[1].blob for row in rows]
        return DictPage(keys, [row[1].value for row in rows], blobs if any(blobs) else [], more)

    async def length(self, object_id: str) -> int:
        """At most MAX_LEN. Fault: not-found."""
        table = await self._table(object_id)
        cutoff = self._cutoff()
        if table.complete:
            return min(MAX_LEN, table.count(cutoff))
        await self._settle(table)
        return await self._store.count(table.number, cutoff, MAX_LEN)

    # -- writing
    def _take_put(self, connection: Connection, stream_id: int, message: DictPut) -> None:
        _check(message)
        table = self._tables.get(message.dict_id)
        known: Known = None
        if table is not None and message.skip_if_exists:
            known = UNKNOWN if message.again else table.get(message.keys[0])
        if table is None or message.blobs or isinstance(known, Unknown):
            self._answer_later(connection, stream_id, self._put(connection, stream_id, message))
        else:
            self._write(connection, stream_id, message, table, [], known)

    async def _put(self, connection: Connection, stream_id: int, message: DictPut) -> None:
        table = await self._table(message.dict_id)
        sizes = await self._secured(message) if message.blobs else []
        known: Entry | None = None
        if message.skip_if_exists:
            if message.again:  # perhaps it was done
                await self._settle(table)
                if await self._store.token_of(table.number, message.keys[0]) == message.token:
                    connection.respond(stream_id, Stored(True))
                    return
            known = await self._entry(table, message.keys[0])
        self._write(connection, stream_id, message, table, sizes, known)

    def _write(
        self,
        connection: Connection,
        stream_id: int,
        message: DictPut,
        table: Table,
        sizes: list[int],
        known: Entry | None,
    ) -> None:
        """`sizes`: of the values, where some are large; `known`: what is there, where it matters."""
        keys, values, blobs, token = message.keys, message.values, message.blobs, message.token
        if not keys:
            connection.respond(stream_id, Stored(True))
            return
        now = self._now()
        if known is not None and known.used_at >= self._cutoff():
            self._respond(connection, stream_id, Stored(False), table)
            if any(blobs):
                self._background(self._delete(blobs))
            return
        if blobs:
            entries = [
                Entry(b"" if blob else value, blob, size, now)
                for value, blob, size in zip(values, blobs, sizes, strict=True)
            ]
            table.blobs = True
        else:
            entries = [_new_tuple(Entry, (value, "", len(value), now)) for value in values]

        def done(error: Exception | None) -> None:
            if error is not None:
                table.restore(undo)
                self._changed[table] = None
                _fail(connection, stream_id, error)
            elif not connection.closed:
                connection.respond(stream_id, Stored(True))

        table.latest = self._behind.append("dict-put", (table.number, token, now, keys, values, blobs, sizes), done)
        undo = table.put(keys, entries, token)
        self._changed[table] = None

    async def _secured(self, message: DictPut) -> list[int]:
        """The sizes of the values, the large ones among which are now on the disk for good. Raises Fault."""
        sizes = []
        for value, blob in zip(message.values, message.blobs, strict=True):
            size = await asyncio.to_thread(self._values.secure, blob) if blob else len(value)
            if size > MAX_VALUE:
                raise Fault(Code.TOO_LARGE, f"a value in a Dict has at most {MAX_VALUE} bytes, and this one has {size}")
            sizes.append(size)
        return sizes

    # -- taking out
    def _take_pop(self, connection: Connection, stream_id: int, message: DictPop) -> None:
        table = self._tables.get(message.dict_id)
        entry = UNKNOWN if table is None or message.again else table.get(message.key)
        if table is None or isinstance(entry, Unknown):
            self._answer_later(connection, stream_id, self._pop(connection, stream_id, message))
        else:
            self._remove(connection, stream_id, message, table, entry)

    async def _pop(self, connection: Connection, stream_id: int, message: DictPop) -> None:
        table = await self._table(message.dict_id)
        if message.again:  # perhaps it was done
            await self._behind.settle()
            popped = await self._store.popped(message.token)
            if popped is not None:
                connection.respond(stream_id, _answer(popped, value=True))
                return
        self._remove(connection, stream_id, message, table, await self._entry(table, message.key))

    def _remove(
        self, connection: Connection, stream_id: int, message: DictPop, table: Table, entry: Entry | None
    ) -> None:
        key, token, now = message.key, message.token, self._now()
        if entry is None or entry.used_at < self._cutoff():
            self._respond(connection, stream_id, DictValue(False), table)
            return

        def done(error: Exception | None) -> None:
            if error is not None:
                table.restore(undo)
                self._changed[table] = None
                self._popped.pop(token, None)
                _fail(connection, stream_id, error)
            elif not connection.closed:
                connection.respond(stream_id, _answer(entry, value=True))

        table.latest = self._behind.append("dict-pop", (table.number, key, token, now), done)
        undo = table.remove(key, entry, token)
        self._popped[token] = Popped(entry, now)
        self._changed[table] = None

    def received(self, tokens: list[bytes]) -> None:
        """What was popped under these has arrived (or they are of something else)."""
        for token in tokens:
            popped = self._popped.pop(token, None)
            if popped is None:
                self._notes.arrived(token)
            elif popped.entry.blob:
                self._background(self._delete([popped.entry.blob]))

    async def clear(self, object_id: str) -> None:
        """Fault: not-found."""
        table = await self._table(object_id)
        noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            if noted.done():
                return
            if error is None:
                noted.set_result(None)
            else:
                noted.set_exception(error)

        table.latest = self._behind.append("dict-clear", (table.number,), done)
        table.clear()
        self._changed[table] = None
        await noted
        if table.blobs:
            await self._settle(table)

    async def dropped(self, object_id: str, number: int) -> None:
        """The dict was deleted: what was in it goes."""
        self._drops += 1
        table = self._tables.pop(object_id, None)
        await self._behind.settle()  # what is on its way comes before
        if table is not None:
            table.forget()
        self._background(self._drop(number))

    async def _drop(self, number: int) -> None:
        await self._delete(await self._store.drop(number))
        self._with_blobs.discard(number)

    # -- the store
    def collect(self) -> tuple[Callable[[sqlite3.Connection], list[str]], Callable[[list[str]], None]] | None:
        """See write_behind.Source."""
        if not (self._changed or self._popped):
            return None
        tables, self._changed = self._changed, {}
        popped, self._popped = self._popped, {}
        jobs = [table.collect() for table in tables]

        def work(connection: sqlite3.Connection) -> list[str]:
            sql.add_popped(connection, popped)
            return [blob for job in jobs for blob in sql.apply(connection, job)]

        return work, partial(self._stored, tables)

    def _stored(self, tables: dict[Table, None], gone: list[str]) -> None:
        for table in tables:
            table.stored()
            if table.blobs:
                self._with_blobs.add(table.number)
        if gone:
            self._background(self._delete(gone))
        self._shrink()

    def _shrink(self) -> None:
        """Keep as much in memory as may be: what was used lately."""
        if self._memory.used > MAX_MEMORY:
            for table in self._tables.values():
                table.shrink(MAX_MEMORY * 3 // 4)
                if self._memory.used <= MAX_MEMORY * 3 // 4:
                    break
        if len(self._tables) > MAX_TABLES:
            for object_id in [name for name, table in self._tables.items() if table.settled][: MAX_TABLES // 10]:
                self._tables.pop(object_id).forget()

    async def _settle(self, table: Table) -> None:
        if not table.settled:
            await self._behind.settle()

    async def sweep(self) -> int:
        """Delete what has expired; how many."""
        await self._behind.settle()
        await self._notes.write()
        count, gone = await self._store.expire(self._cutoff())
        gone += await self._store.forget_popped(self._now() - POPPED_KEPT)
        await self._delete(gone)
        return count

    # -- parts
    async def _table(self, object_id: str) -> Table:
        """Fault: not-found."""
        table = self._tables.get(object_id)
        while table is None:
            drops = self._drops
            number = await self._find(object_id)
            rows, more = await self._store.after(number, b"", self._cutoff(), True, WHOLE, WHOLE_BYTES)
            table = self._tables.get(object_id)
            if table is None and self._drops == drops:
                table = self._tables[object_id] = Table(number, self._memory, number in self._with_blobs)
                table.learn(rows, complete=not more)
                self._shrink()
        self._tables.move_to_end(object_id)
        return table

    def _cutoff(self) -> float:
        return self._now() - IDLE_SECONDS - TOUCH_STEP

    async def _delete(self, blobs: list[str]) -> None:
        if blobs:
            await self._behind.settle()  # so that the store says what is still in use
            await self._values.forget(blobs)

    def _answer_later(self, connection: Connection, stream_id: int, work: Coroutine[Any, Any, None]) -> None:
        async def answer() -> None:
            try:
                await work
            except Exception as error:
                _fail(connection, stream_id, error)

        self._background(answer())

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _check(message: DictPut) -> None:
    """Raises Fault."""
    keys, values, blobs = message.keys, message.values, message.blobs
    if len(values) != len(keys) or (blobs and len(blobs) != len(keys)):
        raise Fault(Code.INVALID, "as many values as keys are needed")
    if len(keys) > MAX_UPDATE:
        raise Fault(Code.INVALID, f"one update of a Dict has at most {MAX_UPDATE} entries, not {len(keys)}")
    if message.skip_if_exists and len(keys) != 1:
        raise Fault(Code.INVALID, "skip_if_exists is for a single entry")
    largest = max(map(len, keys), default=0)
    if largest > MAX_KEY:
        raise Fault(Code.TOO_LARGE, f"a key of a Dict has at most {MAX_KEY} bytes, and this one has {largest}")


def _fail(connection: Connection, stream_id: int, error: Exception) -> None:
    if not connection.closed:
        fault = error if isinstance(error, Fault) else Fault(Code.INTERNAL, f"{type(error).__name__}: {error}")
        connection.fail(stream_id, fault)


def _answer(entry: Entry | None, value: bool) -> DictValue:
    if entry is None:
        return DictValue(False)
    return DictValue(True, entry.value, entry.blob, entry.size) if value else DictValue(True)
