"""Queues: puts and gets are answered when they are on the disk, in the order in which they came.

A consumer that waits costs a place in a line here, no polling. What it is handed stays in the store, noted as lent,
until it says that it has it; when its connection ends before, the items are at the head again: nothing is lost, and
nothing is delivered twice as long as client and server live. A producer that sends a put again is recognised by
its token.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.lending import bring_in, fitting, values
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.partitions import Partitions
from intermodal.server.queues.requests import check_get, check_put
from intermodal.server.queues.waiting import LENT, READING, WAITING, Getter, Peer, Putter, stop_timer
from intermodal.server.store import queues as sql
from intermodal.server.store.queues import PLACES, QueueStore
from intermodal.server.store.write_behind import WriteBehind
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.object import Received, Stored
from modal._protocol.messages.queue import MAX_BODY, MAX_ITEMS, QueueGet, QueueItems, QueuePut

MAX_WAITING = 256 << 20  # bytes that producers may hold here while they wait for room
MAX_TOKENS = 20_000  # puts, and confirmations, that are recognised when they are sent again
PUTS_KEPT = 600.0  # seconds that a put from before a restart is recognised when it is sent again
UNCLAIMED_SECONDS = 30.0  # after a restart: how long a consumer has to ask for what it was lent, or to confirm it
_PEER = "queue_peer"


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
        self._getters: dict[bytes, Getter] = {}  # by token, until their items have arrived
        self._puts: OrderedDict[bytes, Putter | None] = OrderedDict()  # by token; None: done
        self._confirmed: OrderedDict[bytes, None] = OrderedDict()  # tokens that need not be heard of again
        self._waiting_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Before anything is asked."""
        self._changes = Changes(self._store, self._behind)
        self._loop = asyncio.get_running_loop()
        self._partitions = await Partitions.open(self._store, self._changes, self._find, self._adopt)
        for queue in await self._store.orphans():
            self._background(self._store.drop(queue))

    def register(self, handlers: Handlers) -> None:
        handlers.fast(QueuePut)(self._take_put)
        handlers.fast(QueueGet)(self._take_get)

    def close(self) -> None:
        """What has arrived goes to the store when that is closed."""
        for task in self._tasks:
            task.cancel()
        self._changes.flush()

    # -- putting
    def _take_put(self, connection: Connection, stream_id: int, message: QueuePut) -> None:
        check_put(message)
        partition = self._partitions.get(message.queue_id, message.partition)
        if partition is None or not partition.stored or message.again:
            self._when_ready(connection, stream_id, message, self._put)
        else:
            self._put(partition, connection, stream_id, message)

    def _put(self, partition: Partition, connection: Connection, stream_id: int, message: QueuePut) -> None:
        token = message.token
        if token in self._puts:
            self._put_again(token, connection, stream_id)
            return
        self._expire(partition)
        putter = Putter(partition, token, message.items, message.ttl, connection, stream_id)
        if not partition.putters and partition.room(len(putter.items)):
            self._append(putter)
            self._puts[token] = putter
            self._pump(partition)
            return
        if message.wait == 0:
            connection.respond(stream_id, Stored(False))
            return
        if self._waiting_bytes + putter.size > MAX_WAITING:
            raise Fault(Code.EXHAUSTED, "too many large items wait for room in queues: take items out, then try again")
        self._puts[token] = putter
        self._waiting_bytes += putter.size
        partition.putters.append(putter)
        self._peer(connection).streams[stream_id] = putter
        self._start_timer(putter, message.wait)

    def _put_again(self, token: bytes, connection: Connection, stream_id: int) -> None:
        """After a reconnect: it waits still, or was done."""
        putter = self._puts[token]
        if putter is None:
            connection.respond(stream_id, Stored(True))
            return
        self._peer(putter.connection).streams.pop(putter.stream_id, None)
        putter.connection, putter.stream_id = connection, stream_id
        self._peer(connection).streams[stream_id] = putter

    def _append(self, putter: Putter) -> None:
        partition, items, token = putter.partition, putter.items, putter.token
        first = partition.append(len(items))
        queue = partition.queue
        putter.writing = True
        stop_timer(putter)
        expires_at = partition.expires_at = self._now() + putter.ttl
        slack = putter.ttl * 0.01  # so that not every put has to move it
        kept_until = made = None
        if not partition.stored or not expires_at <= partition.kept_until <= expires_at + 2 * slack:
            kept_until = partition.kept_until = expires_at + slack
            if not partition.stored:
                partition.stored = True
                queue.count += 1
                made = (queue.number, partition.key, kept_until)
        partition.busy += 1
        done = partial(self._appended, putter, first, made is not None)
        self._changes.put(partition, made, kept_until, first, items, token, done)

    def _appended(self, putter: Putter, first: int, made: bool, error: Exception | None) -> None:
        partition = putter.partition
        partition.busy -= 1
        if error is not None:
            self._changes.undo_put(partition, first, len(putter.items))
            if made:
                partition.stored = False
                partition.queue.count -= 1
            partition.kept_until = 0.0
        self._finish_put(putter, error)
        if error is not None:
            self._pump(partition)
        elif partition.watchers:
            self._wake(partition)

    def _finish_put(self, putter: Putter, error: Exception | None) -> None:
        self._peer(putter.connection).streams.pop(putter.stream_id, None)
        if error is not None:
            self._puts.pop(putter.token, None)
            _fail(putter.connection, putter.stream_id, error)
            return
        self._remember(putter.token)
        if not putter.connection.closed:
            putter.connection.respond(putter.stream_id, Stored(True))

    def _remember(self, token: bytes) -> None:
        self._puts[token] = None
        if len(self._puts) > MAX_TOKENS:
            oldest = next(iter(self._puts))
            if self._puts[oldest] is None:
                del self._puts[oldest]
            else:
                self._puts.move_to_end(oldest)

    def _leave(self, putter: Putter) -> None:
        """A producer that waits gives up."""
        stop_timer(putter)
        putter.partition.putters.remove(putter)
        self._waiting_bytes -= putter.size
        self._puts.pop(putter.token, None)
        self._peer(putter.connection).streams.pop(putter.stream_id, None)
        self._pump(putter.partition)  # whoever was behind may need less room

    # -- getting
    def _take_get(self, connection: Connection, stream_id: int, message: QueueGet) -> None:
        check_get(message)
        if message.arrived:
            self._hear_again(connection, message.arrived)
        partition = self._partitions.get(message.queue_id, message.partition)
        if partition is None:
            self._when_ready(connection, stream_id, message, self._get)
        else:
            self._get(partition, connection, stream_id, message)

    def _get(self, partition: Partition, connection: Connection, stream_id: int, message: QueueGet) -> None:
        self._expire(partition)
        if message.peek:
            self._answer_later(connection, stream_id, self._peek(partition, connection, stream_id, message))
            return
        known = self._getters.get(message.token)
        if known is not None:
            self._get_again(known, connection, stream_id, message.wait)
            return
        getter = Getter(partition, message.token, message.count, connection, stream_id)
        if partition.available and not partition.getters:
            self._follow(getter)
            self._hand(getter)
            self._pump(partition)
        elif message.wait == 0:
            connection.respond(stream_id, QueueItems([]))
        else:
            self._follow(getter)
            partition.getters.append(getter)
            self._start_timer(getter, message.wait)

    def _get_again(self, getter: Getter, connection: Connection, stream_id: int, wait: float) -> None:
        """After a reconnect."""
        self._unfollow(getter)
        getter.connection, getter.stream_id, getter.gone = connection, stream_id, False
        self._follow(getter)
        stop_timer(getter)
        if getter.state == WAITING:
            self._start_timer(getter, wait)
        elif getter.state == LENT:
            getter.state = READING
            self._read_then(getter, partial(self._lent, getter))

    def _hand(self, getter: Getter) -> None:
        """The next items are this one's."""
        stop_timer(getter)
        getter.ranges = getter.partition.take(getter.count)
        getter.state = READING
        getter.partition.busy += 1
        if getter.partition.contents.missing(getter.ranges) is None:
            self._lend(getter)
        else:
            self._read_then(getter, partial(self._lend, getter))

    def _read_then(self, getter: Getter, then: Callable[[], None]) -> None:
        """Bring its items into memory."""

        async def read() -> None:
            try:
                await bring_in(self._store, self._changes, getter)
                then()
            except Exception as error:
                self._not_lent(getter, error)

        self._background(read())

    def _lend(self, getter: Getter) -> None:
        partition = getter.partition
        count, tokens, getter.ranges, rest = fitting(partition, getter.ranges)
        for token in tokens:
            self._remember(token)
        if rest:
            getter.cut = True
            partition.give_back(rest)
        if count:
            self._changes.lend(partition, getter.token, getter.ranges, partial(self._lent, getter))
            return
        partition.busy -= 1
        getter.state = WAITING
        if getter.gone:
            self._forget(getter)
        else:
            partition.getters.appendleft(getter)
            self._pump(partition)

    def _lent(self, getter: Getter, error: Exception | None = None) -> None:
        if error is not None:
            self._not_lent(getter, error)
            return
        getter.state = LENT
        connection = getter.connection
        if getter.gone or connection is None or connection.closed:
            self._take_back(getter)
        else:
            self._peer(connection).streams.pop(getter.stream_id, None)
            items = values(getter.partition, getter.ranges)
            connection.respond(getter.stream_id, QueueItems(items, getter.ranges[-1][1], getter.cut))

    def _not_lent(self, getter: Getter, error: Exception) -> None:
        partition = getter.partition
        partition.busy -= 1
        self._changes.take_back(partition, getter.token)
        partition.give_back(getter.ranges)
        connection, stream_id = getter.connection, getter.stream_id
        self._forget(getter)
        if connection is not None:
            _fail(connection, stream_id, error)
        self._pump(partition)

    def _take_back(self, getter: Getter) -> None:
        """Its items did not arrive: they are at the head again."""
        partition, token = getter.partition, getter.token
        stop_timer(getter)
        partition.give_back(getter.ranges)
        self._forget(getter)
        partition.busy -= 1
        self._changes.take_back(partition, token)
        self._pump(partition)

    def received(self, connection: Connection, message: Received) -> None:
        """What was lent has arrived, or (`give_back`) will not."""
        unknown = []
        for token in message.tokens[:MAX_ITEMS]:
            self._confirmed[token] = None
            getter = self._getters.get(token)
            if getter is None:
                unknown.append(token)
            elif message.give_back:
                self._give_up(getter)
            elif getter.state == LENT:
                stop_timer(getter)
                self._forget(getter)
                partition = getter.partition
                old = getter.ranges[0][0] < partition.loaded
                self._changes.confirm(partition, getter.ranges, token, old)
        if unknown and not message.give_back:
            self._background(self._find_lent(connection, unknown))
        while len(self._confirmed) > MAX_TOKENS:
            self._confirmed.popitem(last=False)

    async def _find_lent(self, connection: Connection, tokens: list[bytes]) -> None:
        """Of a server before this one: load where it is; then it is known."""
        for object_id, key in await self._changes.run(lambda c: sql.whereabouts(c, tokens)):
            await self._partitions.load(object_id, key)
        known = [token for token in tokens if token in self._getters]
        if known:
            self.received(connection, Received("queue", known))

    def _hear_again(self, connection: Connection, tokens: list[bytes]) -> None:
        """Confirmations that came before, unless the server died with them."""
        new = [token for token in tokens if token not in self._confirmed]
        if new:
            self.received(connection, Received("queue", new))

    def _give_up(self, getter: Getter) -> None:
        """Whoever asked does not want it any more."""
        if getter.state == WAITING:
            stop_timer(getter)
            getter.partition.getters.remove(getter)
            self._forget(getter)
        elif getter.state == READING:
            getter.gone = True
        else:
            self._take_back(getter)

    def _follow(self, getter: Getter) -> None:
        assert getter.connection is not None
        self._getters[getter.token] = getter
        peer = self._peer(getter.connection)
        peer.tokens.add(getter.token)
        peer.streams[getter.stream_id] = getter

    def _unfollow(self, getter: Getter) -> None:
        if getter.connection is not None:
            peer = self._peer(getter.connection)
            peer.tokens.discard(getter.token)
            peer.streams.pop(getter.stream_id, None)

    def _forget(self, getter: Getter) -> None:
        self._unfollow(getter)
        self._getters.pop(getter.token, None)

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
        for partition in self._partitions.all():
            if partition.queue is queue:
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
            for getter in list(partition.getters):
                connection, stream_id = getter.connection, getter.stream_id
                self._give_up(getter)
                if connection is not None:
                    _fail(connection, stream_id, gone)
            for putter in list(partition.putters):
                connection, stream_id = putter.connection, putter.stream_id
                partition.putters.remove(putter)
                stop_timer(putter)
                self._waiting_bytes -= putter.size
                self._puts.pop(putter.token, None)
                self._peer(connection).streams.pop(stream_id, None)
                _fail(connection, stream_id, gone)
            partition.clear()
            self._wake(partition)
            self._changes.forget(partition)
        await self._changes.settle_all()  # what is on its way comes before
        self._background(self._store.drop(number))

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

    # -- all of it
    def _pump(self, partition: Partition) -> None:
        """Serve whoever waits, as far as that goes."""
        while True:
            if partition.getters and partition.available:
                self._hand(partition.getters.popleft())
            elif partition.putters and partition.room(len(partition.putters[0].items)):
                putter = partition.putters.popleft()
                self._waiting_bytes -= putter.size
                try:
                    self._append(putter)
                except Fault as fault:
                    self._finish_put(putter, fault)
            else:
                return

    def _start_timer(self, waiting: Getter | Putter, seconds: float) -> None:
        if seconds >= 0:
            waiting.timer = self._loop.call_later(seconds, self._time_is_up, waiting)

    def _time_is_up(self, waiting: Getter | Putter) -> None:
        connection, stream_id = waiting.connection, waiting.stream_id
        if isinstance(waiting, Putter):
            self._leave(waiting)
            if not waiting.connection.closed:
                waiting.connection.respond(stream_id, Stored(False))
        else:
            self._give_up(waiting)
            if connection is not None and not connection.closed:
                connection.respond(stream_id, QueueItems([]))

    # -- what takes longer
    def _when_ready(self, connection: Connection, stream_id: int, message: Any, then: Callable[..., None]) -> None:
        async def load() -> None:
            partition = await self._partitions.load(message.queue_id, message.partition)
            if isinstance(message, QueuePut):
                if message.again and message.token not in self._puts:  # the server before may have heard of it
                    number, token = partition.number, message.token
                    await self._changes.settle(partition)
                    if await self._changes.run(lambda c: sql.was_put(c, number, token)):
                        connection.respond(stream_id, Stored(True))
                        return
                if not partition.stored:
                    await self._partitions.make_room(partition.queue)
                self._check_alive(partition)
            then(partition, connection, stream_id, message)

        self._answer_later(connection, stream_id, load())

    def _answer_later(self, connection: Connection, stream_id: int, work: Any) -> None:
        async def answer() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                streams.pop(stream_id, None)
                _fail(connection, stream_id, error)
            finally:
                if streams.get(stream_id) is task:
                    del streams[stream_id]

        streams = self._peer(connection).streams
        task = self._background(answer())
        streams[stream_id] = task

    def _adopt(self, partition: Partition, row: sql.PartitionRow) -> None:
        """Lent before the server began: its client asks again, confirms, or is gone."""
        for token, ranges in row.taken.items():
            getter = Getter(partition, token, sum(last - first + 1 for first, last in ranges), None, 0)
            getter.ranges, getter.state = ranges, LENT
            partition.busy += 1
            self._getters[token] = getter
            getter.timer = self._loop.call_later(UNCLAIMED_SECONDS, self._take_back, getter)
        for put in row.puts:  # its client may not have heard that it was done, and send it again
            self._remember(put)

    def _check_alive(self, partition: Partition) -> None:
        if self._partitions.get(partition.queue.object_id, partition.key) is not partition:
            raise Fault(Code.NOT_FOUND, f"Queue {partition.queue.object_id} was deleted")

    # -- connections
    def _peer(self, connection: Connection) -> Peer:
        found: Peer | None = getattr(connection, _PEER, None)
        if found is None:
            found = Peer()
            setattr(connection, _PEER, found)
            connection.on_close.append(lambda _error: self._lost(connection))
            before = connection.on_cancel
            connection.on_cancel = lambda stream_id: self._cancelled(connection, stream_id, before)
        return found

    def _cancelled(self, connection: Connection, stream_id: int, otherwise: Callable[[int], None] | None) -> None:
        waiting = self._peer(connection).streams.pop(stream_id, None)
        if waiting is None:
            if otherwise is not None:
                otherwise(stream_id)
        elif isinstance(waiting, Getter):
            self._give_up(waiting)
        elif isinstance(waiting, Putter):
            if not waiting.writing:
                self._leave(waiting)
        else:
            waiting.cancel()

    def _lost(self, connection: Connection) -> None:
        """The connection ended: what waits there leaves; what it was lent and did not confirm comes back."""
        peer = self._peer(connection)
        for waiting in list(peer.streams.values()):
            if isinstance(waiting, Putter):
                if not waiting.writing:
                    self._leave(waiting)
            elif not isinstance(waiting, Getter):
                waiting.cancel()
        peer.streams.clear()
        for token in list(peer.tokens):
            getter = self._getters.get(token)
            if getter is not None and getter.connection is connection:
                self._give_up(getter)

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


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


def _fail(connection: Connection, stream_id: int, error: Exception) -> None:
    if connection.closed:
        return
    fault = error if isinstance(error, Fault) else Fault(Code.INTERNAL, f"{type(error).__name__}: {error}")
    connection.fail(stream_id, fault)
