"""Consumers: they wait in line, are lent items, and own them once these have arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from intermodal.server.queues.arrivals import Arrivals
from intermodal.server.queues.changes import Changes
from intermodal.server.queues.lending import bring_in, fitting, values
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.peers import Peers, fail
from intermodal.server.queues.recent import Recent
from intermodal.server.queues.waiting import ARRIVED, LENT, READING, WAITING, Getter, stop_timer
from intermodal.server.store import queues as sql
from intermodal.server.store.queues import QueueStore
from modal._protocol.aio import Connection
from modal._protocol.errors import Fault
from modal._protocol.messages.object import Received
from modal._protocol.messages.queue import MAX_ITEMS, QueueGet, QueueItems

MAX_TOKENS = 20_000  # confirmations that are recognised when they are sent again
UNCLAIMED_SECONDS = 30.0  # after a restart: how long a consumer has to ask for what it was lent, or to confirm it


Load = Callable[[str, bytes], Awaitable[Partition]]


class Getting:
    """`pump` serves whoever waits at a partition; `done` is told of puts that are known to be done."""

    def __init__(
        self,
        store: QueueStore,
        changes: Changes,
        peers: Peers,
        pump: Callable[[Partition], None],
        done: Callable[[bytes], None],
    ) -> None:
        self._store = store
        self._changes = changes
        self._peers = peers
        self._pump = pump
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._getters: dict[bytes, Getter] = {}  # by token, until their items have arrived
        self._confirmed = Recent(MAX_TOKENS)  # need not be heard of again
        self.arrivals = Arrivals(self._confirm)

    def get(self, partition: Partition, connection: Connection, stream_id: int, message: QueueGet) -> None:
        """Hand out, or let it wait."""
        known = self._getters.get(message.token)
        if known is not None:
            self._get_again(known, connection, stream_id, message.wait)
            return
        getter = Getter(partition, message.token, message.count, connection, stream_id)
        if not partition.getters and partition.available:
            self._follow(getter)
            self.hand(getter)
            if partition.putters:
                self._pump(partition)
        elif message.wait == 0:
            connection.respond(stream_id, QueueItems([]))
        else:
            self._follow(getter)
            self._wait(getter)
            partition.getters.append(getter)
            self._start_timer(getter, message.wait)

    def _get_again(self, getter: Getter, connection: Connection, stream_id: int, wait: float) -> None:
        """After a reconnect."""
        self._unfollow(getter)
        getter.connection, getter.stream_id, getter.gone = connection, stream_id, False
        self._follow(getter)
        stop_timer(getter)
        if getter.state == WAITING:
            self._wait(getter)
            self._start_timer(getter, wait)
        elif getter.state == LENT:
            getter.state = READING
            self._read_then(getter, partial(self._lent, getter))

    def _start_timer(self, getter: Getter, seconds: float) -> None:
        if seconds >= 0:
            getter.timer = self._loop.call_later(seconds, self._time_is_up, getter)

    def _time_is_up(self, getter: Getter) -> None:
        connection, stream_id = getter.connection, getter.stream_id
        self.give_up(getter)
        if connection is not None and not connection.closed:
            connection.respond(stream_id, QueueItems([]))

    def hand(self, getter: Getter) -> None:
        """The next items are this one's."""
        if getter.timer is not None:
            stop_timer(getter)
        partition = getter.partition
        getter.ranges = partition.take(getter.count)
        getter.state = READING
        partition.busy += 1
        if getter.count == 1:  # as most: at once
            contents, place = partition.contents, getter.ranges[0][0]
            item = contents.items.get(place)
            if item is not None:
                getter.items = [item]
                token = contents.tokens.get(place)
                if token is not None:
                    self._done(token)
                self._changes.lend(partition, getter.token, getter.ranges, partial(self._lent, getter))
                return
        if partition.contents.missing(getter.ranges) is None:
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

        self._peers.background(read())

    def _lend(self, getter: Getter) -> None:
        partition = getter.partition
        getter.items, tokens, getter.ranges, rest = fitting(partition, getter.ranges)
        for token in tokens:
            self._done(token)
        if rest:
            getter.cut = True
            partition.give_back(rest)
        if getter.items:
            self._changes.lend(partition, getter.token, getter.ranges, partial(self._lent, getter))
            return
        partition.busy -= 1
        getter.state = WAITING
        if getter.gone:
            self._forget(getter)
        else:
            self._wait(getter)
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
            items = getter.items or values(getter.partition, getter.ranges)
            getter.items = []
            connection.respond(getter.stream_id, QueueItems(items, getter.ranges[-1][1], getter.cut))
            if connection.direct:
                self.arrivals.watch(getter)

    def _not_lent(self, getter: Getter, error: Exception) -> None:
        partition = getter.partition
        partition.busy -= 1
        self._changes.take_back(partition, getter.token)
        partition.give_back(getter.ranges)
        connection, stream_id = getter.connection, getter.stream_id
        self._forget(getter)
        if connection is not None:
            fail(connection, stream_id, error)
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

    def received(self, message: Received, load: Load) -> None:
        """What was lent has arrived, or (`give_back`) will not."""
        unknown = []
        for token in message.tokens[:MAX_ITEMS]:
            self._confirmed.add(token)
            getter = self._getters.get(token)
            if getter is None:
                unknown.append(token)
            elif message.give_back:
                self.give_up(getter)
            elif getter.state == LENT:
                self._confirm(getter)
        if unknown and not message.give_back:
            self._peers.background(self._find_lent(unknown, load))

    def _confirm(self, getter: Getter) -> None:
        """Its items have arrived."""
        getter.state = ARRIVED
        self._confirmed.add(getter.token)
        if getter.timer is not None:
            stop_timer(getter)
        self._forget(getter)
        partition = getter.partition
        old = getter.ranges[0][0] < partition.loaded
        self._changes.confirm(partition, getter.ranges, getter.token, old)

    async def _find_lent(self, tokens: list[bytes], load: Load) -> None:
        """Of a server before this one: load where it is; then it is known."""
        for object_id, key in await self._changes.run(lambda c: sql.whereabouts(c, tokens)):
            await load(object_id, key)
        known = [token for token in tokens if token in self._getters]
        if known:
            self.received(Received("queue", known), load)

    def hear_again(self, tokens: list[bytes], load: Load) -> None:
        """Confirmations that came before, unless the server died with them."""
        others = []
        for token in tokens:
            if token not in self._confirmed:
                getter = self._getters.get(token)
                if getter is not None and getter.state == LENT:
                    self._confirm(getter)
                else:
                    others.append(token)
        if others:
            self.received(Received("queue", others), load)

    def give_up(self, getter: Getter) -> None:
        """Whoever asked does not want it any more."""
        if getter.state == WAITING:
            stop_timer(getter)
            getter.partition.getters.remove(getter)
            self._forget(getter)
        elif getter.state == READING:
            getter.gone = True
        else:
            self._take_back(getter)

    def gone(self, getter: Getter, read: bool) -> None:
        """Its connection ended, or it was cancelled; `read`: what was sent to it has been read."""
        if read and getter.state == LENT:
            self._confirm(getter)
        else:
            self.give_up(getter)

    def turn_away(self, partition: Partition, fault: Fault) -> None:
        """All who wait at this partition."""
        for getter in list(partition.getters):
            connection, stream_id = getter.connection, getter.stream_id
            self.give_up(getter)
            if connection is not None:
                fail(connection, stream_id, fault)

    def adopt(self, partition: Partition, row: sql.PartitionRow) -> None:
        """Lent before the server began: its client asks again, confirms, or is gone."""
        for token, ranges in row.taken.items():
            getter = Getter(partition, token, sum(last - first + 1 for first, last in ranges), None, 0)
            getter.ranges, getter.state = ranges, LENT
            partition.busy += 1
            self._getters[token] = getter
            getter.timer = self._loop.call_later(UNCLAIMED_SECONDS, self._take_back, getter)
        for put in row.puts:  # its client may not have heard that it was done, and send it again
            self._done(put)

    def _follow(self, getter: Getter) -> None:
        assert getter.connection is not None
        self._getters[getter.token] = getter
        peer = getter.peer = self._peers.of(getter.connection)
        peer.getters[getter.token] = getter

    def _wait(self, getter: Getter) -> None:
        """It can be given up by its stream."""
        if getter.peer is not None:
            getter.peer.streams[getter.stream_id] = getter

    def _unfollow(self, getter: Getter) -> None:
        peer, getter.peer = getter.peer, None
        if peer is not None:
            peer.getters.pop(getter.token, None)
            if peer.streams:
                peer.streams.pop(getter.stream_id, None)

    def _forget(self, getter: Getter) -> None:
        self._unfollow(getter)
        self._getters.pop(getter.token, None)
