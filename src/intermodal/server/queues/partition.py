"""One partition of a queue as the server holds it in memory: which places are free to be handed out, and who waits.

Items themselves are in `contents` and in the store. Places are numbered as items arrive; what is handed out and comes
back goes back to its own place, before everything that came later.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from intermodal.server.queues.contents import Contents
from intermodal.server.store.queues import PLACES, Ranges
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.queue import MAX_ITEMS


class Partition:
    """`getters` and `putters` wait here in the order in which they came."""

    __slots__ = (
        "busy",
        "contents",
        "expires_at",
        "getters",
        "head",
        "kept_until",
        "key",
        "loaded",
        "next",
        "number",
        "putters",
        "queue",
        "returned",
        "stored",
        "watchers",
    )  # fmt: skip

    def __init__(self, queue: Any, key: bytes, number: int, *, stored: bool = False) -> None:
        self.queue = queue
        self.key = key
        self.contents = Contents()
        self.number = number
        self.stored = stored  # its row is in the store, or on its way there
        self.returned: list[int] = []  # a heap of places before `head` that are free again
        self.head = self.next = 0  # first place never handed out; place of the next item
        self.loaded = 0  # items before this place were put before it was loaded
        self.expires_at = float("inf")
        self.kept_until = 0.0  # what the store knows of `expires_at`: no earlier
        self.busy = 0  # writes on their way, and what was lent and not confirmed
        self.getters: deque[Any] = deque()
        self.putters: deque[Any] = deque()
        self.watchers: list[Any] = []  # futures of those who look without taking

    @property
    def available(self) -> int:
        """Items that nobody has yet."""
        return self.next - self.head + len(self.returned)

    @property
    def idle(self) -> bool:
        """Nothing of it need be in memory."""
        return self.contents.known and not (self.busy or self.getters or self.putters or self.watchers)

    def begin_at(self, place: int) -> None:
        """After loading: new items come behind this place."""
        self.head = self.next = self.loaded = max(self.next, place)
        self.contents.begin_at(self.next)

    def room(self, count: int) -> bool:
        return self.next - self.head + len(self.returned) + count <= MAX_ITEMS

    def append(self, count: int) -> int:
        """The place of the first of so many new items."""
        if self.next > PLACES // 2 and self.next == self.head and not self.returned and not self.busy:
            if self.contents.known:  # nothing is left of it: the places may be used again
                self.head = self.next = self.loaded = 0
                self.contents.begin_at(0)
        first = self.next
        if first + count > PLACES:
            raise Fault(
                Code.EXHAUSTED, f"{PLACES} items went through this partition and it was never empty: let it run empty"
            )
        self.next += count
        return first

    def undo_append(self, first: int, count: int) -> None:
        """They could not be stored. Where later ones follow already, their places stay empty."""
        if self.next == first + count:
            self.next = max(self.head, first)
        if self.returned:
            self.returned = [place for place in self.returned if not first <= place < first + count]
            heapq.heapify(self.returned)

    def take(self, count: int) -> Ranges:
        """Hand out up to so many items, the oldest first."""
        if count == 1 and not self.returned and self.head < self.next:  # most are
            place = self.head
            self.head = place + 1
            return [(place, place)]
        ranges: Ranges = []
        while count and self.returned:
            place = heapq.heappop(self.returned)
            if ranges and ranges[-1][1] == place - 1:
                ranges[-1] = (ranges[-1][0], place)
            else:
                ranges.append((place, place))
            count -= 1
        fresh = min(count, self.next - self.head)
        if fresh:
            ranges.append((self.head, self.head + fresh - 1))
            self.head += fresh
        return ranges

    def give_back(self, ranges: Ranges) -> None:
        """What was handed out did not arrive."""
        for first, last in ranges:
            for place in range(first, last + 1):
                heapq.heappush(self.returned, place)

    def clear(self) -> Ranges:
        """All that nobody has yet is gone; its places."""
        return self.take(self.available)
