"""What a queue's partition hands out, against the plainest model: a list."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from intermodal.server.queues.partition import Partition
from intermodal.server.store.queues import PLACES
from modal._protocol.errors import Fault
from modal._protocol.messages.queue import MAX_ITEMS


class Walk(RuleBasedStateMachine):
    """Places are handed out oldest first, each to one; what comes back stands where it was."""

    def __init__(self) -> None:
        super().__init__()
        self.partition = Partition(None, b"", 1, stored=True)
        self.free: list[int] = []
        self.lent: list[list[int]] = []
        self.appended: list[tuple[int, int]] = []  # not stored yet

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        first = self.partition.append(count)
        self.free += range(first, first + count)
        self.partition.busy += 1
        self.appended.append((first, count))

    @precondition(lambda self: self.appended)
    @rule()
    def stored(self) -> None:
        self.appended.pop(0)
        self.partition.busy -= 1

    @precondition(lambda self: self.appended)
    @rule()
    def not_stored(self) -> None:
        first, count = self.appended[-1]
        if not all(place in self.free for place in range(first, first + count)):
            return  # it was handed out already: whoever got it will find nothing
        self.appended.pop()
        self.partition.busy -= 1
        self.partition.undo_append(first, count)
        self.free = [place for place in self.free if not first <= place < first + count]

    @rule(count=st.integers(1, 7))
    def take(self, count: int) -> None:
        ranges = self.partition.take(count)
        places = [place for first, last in ranges for place in range(first, last + 1)]
        assert places == self.free[:count]
        self.free = self.free[count:]
        if places:
            self.lent.append(places)
            self.partition.busy += 1

    @precondition(lambda self: self.lent)
    @rule(index=st.integers(0, 100), back=st.booleans())
    def settle(self, index: int, back: bool) -> None:
        places = self.lent.pop(index % len(self.lent))
        self.partition.busy -= 1
        if back:
            self.partition.give_back([(place, place) for place in places])
            self.free = sorted(self.free + places)

    @rule()
    def clear(self) -> None:
        ranges = self.partition.clear()
        assert [place for first, last in ranges for place in range(first, last + 1)] == self.free
        self.free = []

    @invariant()
    def counted(self) -> None:
        assert self.partition.available == len(self.free)
        assert self.partition.idle == (not self.lent and not self.appended)


TestWalk = Walk.TestCase
TestWalk.settings = settings(
    max_examples=int(os.environ.get("INTERMODAL_WALK_EXAMPLES", "60")), stateful_step_count=40, deadline=None
)


@given(st.integers(0, MAX_ITEMS), st.integers(1, MAX_ITEMS))
def test_room(there: int, more: int) -> None:
    partition = Partition(None, b"", 1)
    if there:
        partition.append(there)
    assert partition.room(more) == (there + more <= MAX_ITEMS)


def test_places_are_used_again_when_all_is_empty() -> None:
    partition = Partition(None, b"", 1)
    partition.begin_at(PLACES - 2)
    partition.busy = 1  # somebody has still to confirm
    assert partition.append(2) == PLACES - 2
    with pytest.raises(Fault, match="run empty"):
        partition.append(1)
    partition.take(2)
    partition.busy = 0
    assert partition.append(1) == 0
