"""Producers: what they put is noted at once, or waits in line for room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.peers import Peers, fail
from intermodal.server.queues.recent import Recent
from intermodal.server.queues.waiting import Putter, stop_timer
from modal._protocol.aio import Connection
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.object import Stored
from modal._protocol.messages.queue import QueuePut

MAX_WAITING = 256 << 20  # bytes that producers may hold here while they wait for room
_STORED = Stored(True)
MAX_TOKENS = 20_000  # puts that are recognised when they are sent again


class Putting:
    """`pump` serves whoever waits at a partition, `wake` whoever looks at it."""

    def __init__(
        self,
        changes: Changes,
        peers: Peers,
        now: Callable[[], float],
        pump: Callable[[Partition], None],
        wake: Callable[[Partition], None],
    ) -> None:
        self._changes = changes
        self._peers = peers
        self._now = now
        self._pump = pump
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._puts: dict[bytes, Putter] = {}  # by token: those that are not done
        self._done = Recent(MAX_TOKENS)
        self._waiting_bytes = 0

    def knows(self, token: bytes) -> bool:
        """Whether it waits here, or was done lately."""
        return token in self._puts or token in self._done

    def put(self, partition: Partition, connection: Connection, stream_id: int, message: QueuePut) -> None:
        """Do it or let it wait. Fault: exhausted."""
        token = message.token
        if self.knows(token):
            self._put_again(token, connection, stream_id)
            return
        putter = Putter(partition, token, message.items, message.ttl, connection, stream_id)
        if not partition.putters and partition.room(len(putter.items)):
            self._append(putter)
            self._puts[token] = putter
            if partition.getters:
                self._pump(partition)
            return
        if message.wait == 0:
            connection.respond(stream_id, Stored(False))
            return
        putter.size = sum(map(len, putter.items))
        if self._waiting_bytes + putter.size > MAX_WAITING:
            raise Fault(Code.EXHAUSTED, "too many large items wait for room in queues: take items out, then try again")
        self._puts[token] = putter
        self._waiting_bytes += putter.size
        partition.putters.append(putter)
        self._follow(putter)
        if message.wait >= 0:
            putter.timer = self._loop.call_later(message.wait, self._time_is_up, putter)

    def _put_again(self, token: bytes, connection: Connection, stream_id: int) -> None:
        """After a reconnect: it waits still, or was done."""
        putter = self._puts.get(token)
        if putter is None:
            connection.respond(stream_id, Stored(True))
            return
        self._unfollow(putter)
        putter.connection, putter.stream_id = connection, stream_id
        self._follow(putter)

    def _follow(self, putter: Putter) -> None:
        putter.peer = self._peers.of(putter.connection)
        putter.peer.streams[putter.stream_id] = putter

    def _unfollow(self, putter: Putter) -> None:
        if putter.peer is not None:
            putter.peer.streams.pop(putter.stream_id, None)
            putter.peer = None

    def admit(self, putter: Putter) -> None:
        """There is room for the first in line."""
        self._waiting_bytes -= putter.size
        try:
            self._append(putter)
        except Fault as fault:
            self._finish(putter, fault)

    def _append(self, putter: Putter) -> None:
        partition, items, token = putter.partition, putter.items, putter.token
        first = partition.append(len(items))
        queue = partition.queue
        putter.writing = True
        if putter.timer is not None:
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
        self._finish(putter, error)
        if error is not None:
            self._pump(partition)
        elif partition.watchers:
            self._wake(partition)

    def _finish(self, putter: Putter, error: Exception | None) -> None:
        if putter.peer is not None:
            self._unfollow(putter)
        self._puts.pop(putter.token, None)
        if error is not None:
            fail(putter.connection, putter.stream_id, error)
            return
        self._done.add(putter.token)
        if not putter.connection.closed:
            putter.connection.respond(putter.stream_id, _STORED)

    def remember(self, token: bytes) -> None:
        """This put was done."""
        if token not in self._puts:
            self._done.add(token)

    def leave(self, putter: Putter) -> None:
        """A producer that waits gives up, unless it is served just now."""
        if putter.writing:
            return
        self._remove(putter)
        self._pump(putter.partition)  # whoever was behind may need less room

    def _remove(self, putter: Putter) -> None:
        stop_timer(putter)
        putter.partition.putters.remove(putter)
        self._waiting_bytes -= putter.size
        self._puts.pop(putter.token, None)
        self._unfollow(putter)

    def turn_away(self, partition: Partition, fault: Fault) -> None:
        """All who wait at this partition."""
        for putter in list(partition.putters):
            self._remove(putter)
            fail(putter.connection, putter.stream_id, fault)

    def _time_is_up(self, putter: Putter) -> None:
        self.leave(putter)
        if not putter.connection.closed:
            putter.connection.respond(putter.stream_id, Stored(False))
