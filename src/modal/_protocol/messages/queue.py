"""Items of queues. Values are pickles that the server never opens; see `dict` about tokens."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message

MAX_ITEM = 1 << 20  # bytes
MAX_ITEMS = 5_000  # in a partition
MAX_PARTITIONS = 100_000  # in a queue
MAX_PARTITION_KEY = 64  # bytes
MAX_TTL = 24 * 3600  # seconds
MAX_BODY = 4 << 20  # bytes of items that one message carries, unless it is a single one
FOREVER = -1.0  # as `wait`


class QueuePut(Message, type=205):
    """All items at once, in order. Answered with Stored: false where there was no room for `wait` seconds.

    Faults: not-found, invalid, too-large, exhausted (partitions).
    """

    queue_id: str
    partition: bytes
    token: bytes
    items: List[bytes]
    ttl: float = MAX_TTL
    wait: float = 0.0  # FOREVER: as long as it takes
    again: bool = False


class QueueGet(Message, type=207):
    """Up to `count` items; waits `wait` seconds for a first one. Answered with QueueItems.

    They are the client's once it has said Received; if it goes away before, they are at the head again. With
    `peek` nothing is taken: the items after the place `after`, and no confirmation is wanted.
    """

    queue_id: str
    partition: bytes
    token: bytes
    count: int = 1
    wait: float = 0.0
    again: bool = False
    peek: bool = False
    after: int = -1
    arrived: List[bytes] = []  # tokens under which the client got items lately: a new server may not have heard of it


class QueueItems(Message, type=208):
    """No items: there were none in time."""

    items: List[bytes]
    last: int = -1  # place of the last one
    cut: bool = False  # there were more than one message carries
