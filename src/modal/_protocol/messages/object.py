"""Dicts and queues as objects: made, found, listed, kept alive, deleted."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message, Record


class ObjectOpen(Message, type=190):
    """A dict or queue by name, or a new ephemeral one. Answered with ObjectId. Faults: not-found, invalid."""

    kind: str  # "dict" or "queue"
    name: str = ""  # "" for an ephemeral one
    environment: str = ""
    create: bool = False  # where there is none of that name


class ObjectList(Message, type=191):
    """The named ones. Answered with ObjectsKnown."""

    kind: str
    environment: str = ""


class ObjectInfo(Record):
    object_id: str
    name: str
    created_at: float
    size: int = 0  # entries of a dict (at most 100,000); items of a queue
    partitions: int = 0  # of a queue, those with items


class ObjectsKnown(Message, type=192):
    objects: List[ObjectInfo]


class ObjectDelete(Message, type=193):
    """By id, or by name. Answered with Done. Fault: not-found."""

    kind: str
    object_id: str = ""
    name: str = ""
    environment: str = ""


class ObjectHeartbeat(Message, type=194):
    """An ephemeral object is still used. Answered with Done. Fault: not-found."""

    object_id: str


class ObjectClear(Message, type=195):
    """Remove what is in it: all of a dict; one partition or (`all`) all of a queue. Answered with Done."""

    object_id: str
    partition: bytes = b""
    all: bool = False


class ObjectLen(Message, type=196):
    """Answered with ObjectCount: entries of a dict; items of one partition or (`total`) all of a queue."""

    object_id: str
    partition: bytes = b""
    total: bool = False


class ObjectCount(Message, type=197):
    count: int


class Stored(Message, type=201):
    """False: there was an entry and it stays (DictPut), or no room in time (QueuePut)."""

    stored: bool


class Received(Message, type=209):
    """A note: what DictPop or QueueGet gave under these tokens has arrived; with `give_back` it never will."""

    kind: str  # "dict" or "queue"
    tokens: List[bytes]
    give_back: bool = False  # of a queue
