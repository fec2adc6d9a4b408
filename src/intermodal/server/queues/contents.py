"""Items of one partition that are in memory, and what of the partition the store does not know yet.

Items that the store does not have are all here. Of the others some are, as long as there is memory for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat

from intermodal.server.store.queues import PartitionChanges, Ranges

Make = tuple[int, bytes, float]  # number of the queue, key, when it expires at the latest


class Contents:
    __slots__ = (
        "bytes",
        "changed",
        "deleted",
        "fresh",
        "given_back",
        "items",
        "kept_until",
        "made",
        "old_puts",
        "pending",
        "stored",
        "taken",
        "tokens",
        "under_way",
    )  # fmt: skip

    def __init__(self) -> None:
        self.items: dict[int, bytes] = {}  # by place
        self.tokens: dict[int, bytes] = {}  # of puts, by the place of their first item
        self.bytes = 0  # of their values
        self.changed = False  # there is something to collect
        self.pending = False  # something collected is on its way to the store
        self.fresh = 0  # places from here on were never collected
        self.stored = 0  # places before this one are in the store, if they are anywhere
        self.under_way = 0  # what `stored` will be
        self.made: Make | None = None
        self.kept_until: float | None = None
        self.deleted: Ranges = []
        self.old_puts: Ranges = []  # of them: where a put may come again though it was stored before a restart
        self.taken: dict[bytes, Ranges] = {}
        self.given_back: list[bytes] = []

    def begin_at(self, place: int) -> None:
        """The store has all before this place, and nothing is in memory."""
        self.fresh = self.stored = self.under_way = place

    @property
    def known(self) -> bool:
        """The store has all of it."""
        return not (self.changed or self.pending)

    # -- changes
    def put(self, first: int, items: list[bytes], token: bytes) -> None:
        if len(items) == 1:
            self.items[first] = items[0]
            self.bytes += len(items[0])
        else:
            self.items.update(zip(range(first, first + len(items)), items, strict=True))
            self.bytes += sum(map(len, items))
        self.tokens[first] = token
        self.changed = True

    def take(self, token: bytes, ranges: Ranges) -> None:
        self.taken[token] = ranges
        self.changed = True

    def drop_token(self, token: bytes) -> None:
        """It has nothing any more."""
        if self.taken.pop(token, None) is None:  # the store may have heard of it
            self.given_back.append(token)
        self.changed = True

    def confirm(self, token: bytes, ranges: Ranges, old: bool) -> None:
        """What was lent has arrived; `old`: see `old_puts`."""
        place, last = ranges[0]
        if place == last and place >= self.fresh and len(ranges) == 1:  # as most: the store never heard of it
            item = self.items.pop(place, None)
            if item is not None:
                self.bytes -= len(item)
                self.tokens.pop(place, None)
        else:
            self.delete(ranges, old)
        self.drop_token(token)

    def delete(self, ranges: Ranges, old: bool = False) -> None:
        """`old`: see `old_puts`."""
        items, tokens = self.items, self.tokens
        for first, last in ranges:
            if last - first > len(items):
                places: Iterable[int] = [place for place in items if first <= place <= last]
            else:
                places = range(first, last + 1)
            self.bytes -= sum(map(len, filter(None, [*map(items.pop, places, repeat(None))])))
            if tokens:
                deque(map(tokens.pop, places, repeat(None)), maxlen=0)
            if first < self.fresh:
                self.deleted.append((first, min(last, self.fresh - 1)))
                if old:
                    self.old_puts.append(self.deleted[-1])
        self.changed = True

    # -- to the store
    def collect(self, number: int, next_place: int) -> PartitionChanges:
        """What the store does not know; `settled` says that it does."""
        items = self.items
        rows = [
            (place, items[place], self.tokens.get(place, b""))
            for place in (
                range(self.fresh, next_place)
                if next_place - self.fresh <= len(items)
                else sorted(place for place in items if place >= self.fresh)
            )
            if place in items
        ]
        changes = PartitionChanges(
            number, self.made, self.kept_until, self.old_puts, _joined(self.deleted), rows, self.given_back, self.taken
        )
        self.fresh = self.under_way = next_place
        self.made = self.kept_until = None
        self.deleted, self.old_puts, self.given_back, self.taken = [], [], [], {}
        self.changed, self.pending = False, True
        return changes

    def settled(self) -> None:
        """What was collected is stored."""
        self.pending = False
        self.stored = self.under_way

    def shrink(self, room: int) -> None:
        """Keep at most so many bytes of what the store has too, of that the oldest."""
        if self.bytes > room:
            for place in sorted((place for place in self.items if place < self.stored), reverse=True):
                self.bytes -= len(self.items.pop(place))
                self.tokens.pop(place, None)
                if self.bytes <= room:
                    return

    # -- reading
    def missing(self, ranges: Ranges, after: int = -1) -> int | None:
        """The first of these places behind `after` that is not in memory."""
        items = self.items
        for first, last in ranges:
            places = range(max(first, after + 1), last + 1)
            if None in map(items.get, places):
                return next(place for place in places if place not in items)
        return None

    def keep(self, rows: Iterable[tuple[int, bytes, bytes]]) -> None:
        """These (place, value, token) are in the store."""
        for place, value, token in rows:
            if place not in self.items and place < self.stored:
                self.items[place] = value
                if token:
                    self.tokens[place] = token
                self.bytes += len(value)


def _joined(ranges: Ranges) -> Ranges:
    """The same places in as few ranges as may be."""
    joined: Ranges = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
