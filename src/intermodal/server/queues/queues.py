"""Queues: puts and gets are answered when they are on the disk, in the order in which they came.

A consumer that waits costs a place in a line here, no polling. What it is handed stays in the store, noted as lent,
until it has arrived there; when its connection ends before, the items are at the head again: nothing is lost, and
nothing is delivered twice as long as client and server live. A producer that sends a put again is recognised by
its token.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.getting import Getting
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.partitions import Partitions
from intermodal.server.queues.peers import Peers
from intermodal.server.queues.putting import Putting
from intermodal.server.queues.requests import check_get, check_put
from intermodal.server.store import queues as sql
from intermodal.server.store.queues import PLACES, QueueStore
from intermodal.server.store.write_behind import WriteBehind
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.object import Received, Stored
from modal._protocol.messages.queue import MAX_BODY, QueueGet, QueueItems, QueuePut

PUTS_KEPT = 600.0  # seconds that a put from before a restart is recognised when it is sent again


class Queues:
    """`find(object_id)` gives the queue's number; Fault(not-found) where there is none."""

    def __init__(
        self,
        store: QueueStore,
        behind: WriteBehind,
        find: Callable[[str], Awaitable[int]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._behind = behind
        self._find = find
        self._now = now

    async def open(self) -> None:
        """Before anything is asked."""
        self._loop = asyncio.get_running_loop()
        self._changes = Changes(self._store, self._behind)
        self._peers = Peers()
        self._putting = Putting(self._changes, self._peers, self._now, self._pump, self._wake)
        self._getting = Getting(self._store, self._changes, self._peers, self._pump, self._putting.remember)
        self._peers.getter_gone, self._peers.putter_gone = self._getting.gone, self._putting.leave
        self._partitions = await Partitions.open(self._store, self._changes, self._find, self._getting.adopt)
        for queue in await self._store.orphans():
            self._peers.background(self._store.drop(queue))

    def register(self, handlers: Handlers) -> None:
        handlers.fast(QueuePut)(self._take_put)
        handlers.fast(QueueGet)(self._take_get)

    def note_arrivals(self) -> None:
        """Connections are about to be ended from this side."""
        self._getting.arrivals.look()

    def close(self) -> None:
        """What has arrived goes to the store when that is closed."""
        self._peers.close()
        self._getting.arrivals.close()
        self._changes.flush()

    # -- putting and getting
    def _take_put(self, connection: Connection, stream_id: int, message: QueuePut) -> None:
        check_put(message)
        partition = self._partitions.get(message.queue_id, message.partition)
        if partition is None or not partition.stored or message.again:
            self._when_ready(connection, stream_id, message, self._put)
        else:
            self._put(partition, connection, stream_id, message)

    def _put(self, partition: Partition, connection: Connection, stream_id: int, message: QueuePut) -> None:
        self._expire(partition)
        self._putting.put(partition, connection, stream_id, message)

    def _take_get(self, connection: Connection, stream_id: int, message: QueueGet) -> None:
        check_get(message)
        if message.arrived:
            self._getting.hear_again(message.arrived, self._partitions.load)
        partition = self._partitions.get(message.queue_id, message.partition)
        if partition is None:
            self._when_ready(connection, stream_id, message, self._get)
        else:
            self._get(partition, connection, stream_id, message)

    def _get(self, partition: Partition, connection: Connection, stream_id: int, message: QueueGet) -> None:
        self._expire(partition)
        if message.peek:
            self._peers.answer_later(connection, stream_id, self._peek(partition, connection, stream_id, message))
        else:
            self._getting.get(partition, connection, stream_id, message)

    def received(self, _connection: Connection, message: Received) -> None:
        """What was lent has arrived, or (`give_back`) will not."""
        self._getting.received(message, self._partitions.load)

    def _pump(self, partition: Partition) -> None:
        """Serve whoever waits, as far as that goes."""
        while True:
            if partition.getters and partition.available:
                self._getting.hand(partition.getters.popleft())
            elif partition.putters and partition.room(len(partition.putters[0].items)):
                self._putting.admit(partition.putters.popleft())
            else:
                return

    def _when_ready(self, connection: Connection, stream_id: int, message: Any, then: Callable[..., None]) -> None:
        async def load() -> None:
            partition = await self._partitions.load(message.queue_id, message.partition)
            if isinstance(message, QueuePut):
                if message.again and not self._putting.knows(message.token):  # the server before may have heard of it
                    number, token = partition.number, message.token
                    await self._changes.settle(partition)
                    if await self._changes.run(lambda c: sql.was_put(c, number, token)):
                        connection.respond(stream_id, Stored(True))
                        return
                if not partition.stored:
                    await self._partitions.make_room(partition.queue)
                self._check_alive(partition)
            then(partition, connection, stream_id, message)

        self._peers.answer_later(connection, stream_id, load())

    def _check_alive(self, partition: Partition) -> None:
        if self._partitions.get(partition.queue.object_id, partition.key) is not partition:
            raise Fault(Code.NOT_FOUND, f"Queue {partition.queue.object_id} was deleted")

    # -- looking
    async def _peek(self, partition: Partition, connection: Connection, stream_id: int, message: QueueGet) -> None:
        after, deadline = message.after, self._loop.time() + message.wait
        while True:
            await self._changes.settle(partition)
            rows = await self._store.after(partition.number, after, message.count, MAX_BODY)
            free = set(partition.returned)
            seen = [
                (place, value)
                for place, value, _token in rows
                if partition.head <= place < partition.next or place in free
            ]
            if seen:
                connection.respond(stream_id, QueueItems([value for _place, value in seen], seen[-1][0]))
                return
            if rows:
                after = rows[-1][0]
                continue
            left = deadline - self._loop.time()
            if message.wait >= 0 and left <= 0:
                connection.respond(stream_id, QueueItems([]))
                return
            watcher: asyncio.Future[None] = self._loop.create_future()
            partition.watchers.append(watcher)
            try:
                await asyncio.wait([watcher], timeout=left if message.wait >= 0 else None)
            finally:
                if watcher in partition.watchers:
                    partition.watchers.remove(watcher)
            self._check_alive(partition)

    def _wake(self, partition: Partition) -> None:
        watchers, partition.watchers = partition.watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def length(self, object_id: str, key: bytes, total: bool) -> int:
        """Items that nobody has yet, of one partition or of all. Fault: not-found."""
        if total:
            return sum([count for _key, count in await self.lengths(object_id)])
        partition = await self._partitions.load(object_id, key)
        self._expire(partition)
        return partition.available

    async def lengths(self, object_id: str) -> list[tuple[bytes, int]]:
        """Of each partition with items."""
        queue = await self._partitions.queue(object_id)
        counts = dict(await self._store.lengths(queue.number))
        for partition in list(queue.loaded.values()):
            self._expire(partition)
            counts[partition.key] = partition.available
        return [(key, count) for key, count in counts.items() if count]

    # -- clearing
    async def clear(self, object_id: str, key: bytes, all: bool) -> None:
        """Items that were handed out are not touched. Fault: not-found."""
        if not all:
            await self._clear(await self._partitions.load(object_id, key))
            return
        for found, _count in await self.lengths(object_id):
            await self._clear(await self._partitions.load(object_id, found))

    async def _clear(self, partition: Partition) -> None:
        ranges = partition.clear()
        if ranges:
            cleared: asyncio.Future[None] = self._loop.create_future()
            self._changes.delete(partition, ranges, partial(_settle, cleared))
        self._pump(partition)
        if ranges:
            await cleared

    async def dropped(self, object_id: str, number: int) -> None:
        """The queue was deleted: whoever waits hears so, and what was in it goes."""
        gone = Fault(Code.NOT_FOUND, f"Queue {object_id} was deleted")
        for partition in self._partitions.forget(object_id):
            self._getting.turn_away(partition, gone)
            self._putting.turn_away(partition, gone)
            partition.clear()
            self._wake(partition)
            self._changes.forget(partition)
        await self._changes.settle_all()  # what is on its way comes before
        self._peers.background(self._store.drop(number))

    # -- time
    async def sweep(self) -> int:
        """Forget partitions whose time is over; how many."""
        now, swept = self._now(), 0
        for partition in self._partitions.all():
            self._expire(partition)
        loaded = {partition.number for partition in self._partitions.all()}
        for number in await self._store.expired(now):
            if number in loaded:
                continue  # its real end may be later, and was looked at above
            swept += await self._changes.run(partial(_drop_unless_kept, number=number, now=now))
        await self._partitions.count()
        await self._store.forget_puts(now - PUTS_KEPT)
        return swept

    def _expire(self, partition: Partition) -> None:
        if partition.expires_at <= self._now() and partition.available:
            partition.busy += 1
            self._changes.delete(partition, partition.clear(), lambda _error: _free(partition))


def _free(partition: Partition) -> None:
    partition.busy -= 1


def _settle(waiter: asyncio.Future[None], error: Exception | None) -> None:
    if not waiter.done():
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def _drop_unless_kept(connection: sqlite3.Connection, number: int, now: float) -> int:
    row = connection.execute("SELECT expires_at FROM queue_partitions WHERE number = ?", (number,)).fetchone()
    if row is None or row[0] > now:
        return 0
    sql.delete_ranges(connection, number, [(0, PLACES - 1)])
    connection.execute("DELETE FROM queue_taken WHERE partition = ?", (number,))
    connection.execute("DELETE FROM queue_partitions WHERE number = ?", (number,))
    return 1
