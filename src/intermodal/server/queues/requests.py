"""What may be asked of a queue."""

from __future__ import annotations

from modal._protocol.errors import Code, Fault
from modal._protocol.messages.queue import MAX_ITEM, MAX_ITEMS, MAX_PARTITION_KEY, MAX_TTL, QueueGet, QueuePut


def check_put(message: QueuePut) -> None:
    """Raises Fault: invalid, too-large."""
    _check_key(message.partition, message.token)
    if not 0 < message.ttl <= MAX_TTL:
        raise Fault(Code.INVALID, f"partition_ttl must be above 0 and at most {MAX_TTL} seconds, not {message.ttl:g}")
    if not 0 < len(message.items) <= MAX_ITEMS:
        raise Fault(Code.INVALID, f"one put has 1 to {MAX_ITEMS} items, not {len(message.items)}")
    largest = max(map(len, message.items))
    if largest > MAX_ITEM:
        raise Fault(Code.TOO_LARGE, f"an item of a Queue has at most {MAX_ITEM} bytes, and this one has {largest}")


def check_get(message: QueueGet) -> None:
    """Raises Fault: invalid."""
    _check_key(message.partition, message.token)
    if not 0 < message.count <= MAX_ITEMS:
        raise Fault(Code.INVALID, f"one get takes 1 to {MAX_ITEMS} items, not {message.count}")


def _check_key(key: bytes, token: bytes) -> None:
    if len(key) > MAX_PARTITION_KEY:
        raise Fault(Code.INVALID, f"a partition key has at most {MAX_PARTITION_KEY} bytes, not {len(key)}")
    if not 8 <= len(token) <= 16:
        raise Fault(Code.INVALID, "a token has 8 to 16 bytes")
