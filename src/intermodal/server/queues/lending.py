"""Which of the items that a consumer was handed fit into its answer, and how they come into memory."""

from __future__ import annotations

from typing import NamedTuple

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.waiting import Getter
from intermodal.server.store.queues import QueueStore, Ranges
from modal._protocol.messages.queue import MAX_BODY

READ_AHEAD = 1000  # items that are read from the store together


class Fitting(NamedTuple):
    """`found`: items in `covered`; `tokens`: of their puts; `rest` is for later."""

    found: list[bytes]
    tokens: list[bytes]
    covered: Ranges
    rest: Ranges


def fitting(partition: Partition, ranges: Ranges) -> Fitting:
    """Up to MAX_BODY bytes and one item. Those places that are not in memory are of puts that failed."""
    items, known, size = partition.contents.items, partition.contents.tokens, MAX_BODY
    if len(ranges) == 1:  # as most: without a step in Python for each item
        places = range(ranges[0][0], ranges[0][1] + 1)
        whole = [*map(items.get, places)]
        if None not in whole and sum(map(len, whole)) <= size:  # type: ignore[arg-type]
            return Fitting(whole, [*filter(None, map(known.get, places))], ranges, [])  # type: ignore[arg-type]
    tokens: list[bytes] = []
    covered: Ranges = []
    rest: Ranges = []
    found: list[bytes] = []
    for first, last in ranges:
        place = first
        while place <= last and size > 0:
            item = items.get(place)
            place += 1
            if item is not None:
                found.append(item)
                size -= len(item)
                token = known.get(place - 1)
                if token is not None:
                    tokens.append(token)
        if place > first:
            covered.append((first, place - 1))
        if place <= last:
            rest.append((place, last))
    return Fitting(found, tokens, covered, rest)


def values(partition: Partition, ranges: Ranges) -> list[bytes]:
    """Of the places whose items are in memory."""
    items = partition.contents.items
    return [items[place] for first, last in ranges for place in range(first, last + 1) if place in items]


async def bring_in(store: QueueStore, changes: Changes, getter: Getter) -> None:
    """Read what `fitting` will look at. Raises Fault."""
    partition, place = getter.partition, -1
    while (missing := partition.contents.missing(getter.ranges, place)) is not None:
        rows = await store.after(partition.number, missing - 1, READ_AHEAD, MAX_BODY)
        changes.keep(partition, [row for row in rows if row[0] >= partition.head or getter.has(row[0])])
        if sum(map(len, values(partition, getter.ranges))) >= MAX_BODY:
            return  # as much as one answer carries
        place = missing  # if it is not there still, its put had failed
