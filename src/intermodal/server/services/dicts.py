"""Dicts: every change is on the disk before it is answered; entries expire when nobody uses them.

A read counts as use. It is noted once in TOUCH_STEP for each entry, and reaches the disk a little later; an entry
therefore lives for between IDLE_SECONDS and TOUCH_STEP longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from intermodal.server.services.dict_cache import DictCache
from intermodal.server.services.values import Values
from intermodal.server.store.dicts import DictStore, Entry
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
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
TOUCH_DELAY = 5.0  # seconds until reads are noted on the disk
POPPED_KEPT = 600.0  # seconds that a popped value waits for a client that lost its connection
MAX_SCAN = 10_000  # entries in one page


class Dicts:
    """`find(object_id)` gives the dict's number; Fault(not-found) where there is none."""

    def __init__(
        self,
        store: DictStore,
        values: Values,
        find: Callable[[str], Awaitable[int]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._values = values
        self._find = find
        self._now = now
        self._numbers: dict[str, int] = {}
        self._cache = DictCache()
        self._with_blobs: set[int] = set()
        self._touched: set[tuple[int, bytes]] = set()
        self._arrived: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Before anything is asked."""
        self._with_blobs = await self._store.with_blobs()
        for number in await self._store.orphans():
            self._background(self._drop(number))

    def register(self, handlers: Handlers) -> None:
        handlers.fast(DictGet)(self._take_get)
        handlers.unary(DictPut)(self._put)
        handlers.unary(DictPop)(self._pop)
        handlers.unary(DictScan)(self._scan)

    async def close(self) -> None:
        """Note what was read."""
        for task in self._tasks:
            task.cancel()
        await self._flush()

    # -- reading
    def _take_get(self, connection: Connection, stream_id: int, message: DictGet) -> None:
        number = self._numbers.get(message.dict_id)
        if number is not None:
            entry = self._cache.get((number, message.key))
            if entry is not None and entry.used_at >= self._cutoff():
                self._used(number, message.key, entry)
                connection.respond(stream_id, _answer(entry, message.value))
                return
        self._background(self._get(connection, stream_id, message))

    async def _get(self, connection: Connection, stream_id: int, message: DictGet) -> None:
        try:
            number = await self._number(message.dict_id)
            since = self._cache.reading(number)
            entry = await self._store.get(number, message.key, self._cutoff())
        except Exception as error:
            fault = error if isinstance(error, Fault) else Fault(Code.INTERNAL, f"{type(error).__name__}: {error}")
            connection.fail(stream_id, fault)
            return
        if entry is not None:
            self._cache.read((number, message.key), entry, since)
            self._used(number, message.key, entry)
        if not connection.closed:
            connection.respond(stream_id, _answer(entry, message.value))

    async def _scan(self, connection: Connection, message: DictScan) -> DictPage:
        number = await self._number(message.dict_id)
        limit = max(1, min(message.limit, MAX_SCAN))
        rows, more = await self._store.after(number, message.after, self._cutoff(), message.values, limit, MAX_BODY)
        old = self._now() - TOUCH_STEP
        for key, _value, _blob, used_at in rows:
            if message.values and used_at < old:
                self._touch((number, key))
        return DictPage(
            [row[0] for row in rows],  # also where keys are not asked for: the next page begins behind the last one
            [row[1] for row in rows] if message.values else [],
            [row[2] for row in rows] if message.values else [],
            more,
        )

    async def length(self, object_id: str) -> int:
        """At most MAX_LEN. Fault: not-found."""
        return await self._store.count(await self._number(object_id), self._cutoff(), MAX_LEN)

    # -- changing
    async def _put(self, connection: Connection, message: DictPut) -> Stored:
        number = await self._number(message.dict_id)
        entries = await self._checked(message)
        if not entries:
            return Stored(True)
        now = self._now()
        stored = [(key, Entry(value, blob, size, now)) for key, value, blob, size in entries]
        if message.skip_if_exists:
            stored = []
        if message.blobs and any(message.blobs):
            self._with_blobs.add(number)
        self._cache.begin(number, message.keys)
        done = False
        gone: list[str] = []
        try:
            if message.skip_if_exists:
                done = await self._store.put_new(number, entries[0], message.token, now, self._cutoff())
                if not done and entries[0][2]:
                    gone = [entries[0][2]]
            else:
                gone = await self._store.put(number, entries, message.token, now, number in self._with_blobs)
                done = True
        finally:
            self._cache.end(number, stored if done else [])
        await self._delete(gone)
        return Stored(done)

    async def _checked(self, message: DictPut) -> list[tuple[bytes, bytes, str, int]]:
        """Key, value, blob, size. Raises Fault."""
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
        if not blobs:
            return [(key, value, "", len(value)) for key, value in zip(keys, values, strict=True)]
        found = []
        for key, value, blob in zip(keys, values, blobs, strict=True):
            size = await asyncio.to_thread(self._values.secure, blob) if blob else len(value)
            if size > MAX_VALUE:
                raise Fault(Code.TOO_LARGE, f"a value in a Dict has at most {MAX_VALUE} bytes, and this one has {size}")
            found.append((key, b"" if blob else value, blob, size))
        return found

    async def _pop(self, connection: Connection, message: DictPop) -> DictValue:
        number = await self._number(message.dict_id)
        self._cache.begin(number, [message.key])
        try:
            entry = await self._store.pop(
                number, message.key, message.token, message.again, self._now(), self._cutoff()
            )
        finally:
            self._cache.end(number, [])
        return _answer(entry, value=True)

    def received(self, tokens: list[bytes]) -> None:
        """What was popped under these has arrived (or they are of something else)."""
        self._arrived += tokens
        self._flush_later()

    async def clear(self, object_id: str) -> None:
        """Fault: not-found."""
        number = await self._number(object_id)
        self._cache.begin(number, [])
        try:
            gone = await self._store.clear(number)
        finally:
            self._cache.end(number, [])
        await self._delete(gone)

    async def dropped(self, object_id: str, number: int) -> None:
        """The dict was deleted: what was in it goes."""
        self._numbers.pop(object_id, None)
        self._cache.begin(number, [])
        self._cache.end(number, [])
        self._background(self._drop(number))

    async def _drop(self, number: int) -> None:
        await self._delete(await self._store.drop(number))
        self._with_blobs.discard(number)

    async def sweep(self) -> int:
        """Delete what has expired; how many."""
        await self._flush()
        count, gone = await self._store.expire(self._cutoff())
        gone += await self._store.forget_popped(self._now() - POPPED_KEPT)
        await self._delete(gone)
        if len(self._numbers) > 10_000:
            self._numbers.clear()
        return count

    # -- parts
    async def _number(self, object_id: str) -> int:
        number = self._numbers.get(object_id)
        if number is None:
            number = self._numbers[object_id] = await self._find(object_id)
        return number

    def _cutoff(self) -> float:
        return self._now() - IDLE_SECONDS - TOUCH_STEP

    def _used(self, number: int, key: bytes, entry: Entry) -> None:
        now = self._now()
        if entry.used_at < now - TOUCH_STEP:
            self._cache.touched((number, key), now)
            self._touch((number, key))

    def _touch(self, name: tuple[int, bytes]) -> None:
        self._touched.add(name)
        self._flush_later()

    def _flush_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOUCH_DELAY, self._time_to_flush)

    def _time_to_flush(self) -> None:
        self._timer = None
        self._background(self._flush())

    async def _flush(self) -> None:
        touched, self._touched = self._touched, set()
        arrived, self._arrived = self._arrived, []
        if touched:
            await self._store.touch(sorted(touched), self._now())
        if arrived:
            await self._delete(await self._store.popped_arrived(arrived))

    async def _delete(self, blobs: list[str]) -> None:
        if blobs:
            await self._values.forget(blobs)

    def _background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _answer(entry: Entry | None, value: bool) -> DictValue:
    if entry is None:
        return DictValue(False)
    return DictValue(True, entry.value, entry.blob, entry.size) if value else DictValue(True)
