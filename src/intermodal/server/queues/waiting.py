"""Who waits at a queue, and what each connection has asked for and been given."""

from __future__ import annotations

import asyncio
from typing import Any

from intermodal.server.queues.partition import Partition
from intermodal.server.store.queues import Ranges
from modal._protocol.aio import Connection

WAITING, READING, LENT, ARRIVED = "waiting", "reading", "lent", "arrived"


class Getter:
    """One QueueGet: it waits; then its items are read and noted as lent; then it waits to hear that they arrived."""

    __slots__ = (
        "connection", "count", "cut", "gone", "items", "partition", "peer", "ranges", "state", "stream_id", "timer",
        "token",
    )  # fmt: skip

    def __init__(
        self, partition: Partition, token: bytes, count: int, connection: Connection | None, stream_id: int
    ) -> None:
        self.partition = partition
        self.token = token
        self.count = count
        self.connection = connection
        self.stream_id = stream_id
        self.state = WAITING
        self.cut = False  # there was more than one answer carries
        self.ranges: Ranges = []
        self.items: list[bytes] = []  # what is in them, on its way to the disk
        self.peer: Peer | None = None  # where it is known
        self.gone = False  # whoever asked will not take it
        self.timer: asyncio.TimerHandle | None = None

    def has(self, place: int) -> bool:
        """Whether it was handed this one."""
        return any(first <= place <= last for first, last in self.ranges)


class Putter:
    """One QueuePut: it waits for room, then for the disk."""

    __slots__ = ("connection", "items", "partition", "peer", "size", "stream_id", "timer", "token", "ttl", "writing")

    def __init__(
        self, partition: Partition, token: bytes, items: list[bytes], ttl: float, connection: Connection,
        stream_id: int,
    ) -> None:  # fmt: skip
        self.partition = partition
        self.token = token
        self.items = items
        self.size = 0  # bytes, where it waits
        self.peer: Peer | None = None  # where it is known, if it waits or came again
        self.ttl = ttl
        self.connection = connection
        self.stream_id = stream_id
        self.writing = False
        self.timer: asyncio.TimerHandle | None = None


class Peer:
    """What one connection waits for, by stream, and who of it is served or was lent something, by token."""

    __slots__ = ("getters", "streams")

    def __init__(self) -> None:
        self.streams: dict[int, Getter | Putter | asyncio.Task[Any]] = {}
        self.getters: dict[bytes, Getter] = {}

    def served(self, stream_id: int) -> Getter | None:
        """Whose items are on their way."""
        for getter in self.getters.values():
            if getter.stream_id == stream_id and getter.state == READING:
                return getter
        return None


def stop_timer(waiting: Getter | Putter) -> None:
    if waiting.timer is not None:
        waiting.timer.cancel()
        waiting.timer = None
