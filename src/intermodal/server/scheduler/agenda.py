"""What time alone will call for: pools by the instant at which somebody must look at them again."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

from intermodal.server.scheduler.pool import Pool

NEVER = float("inf")


class Agenda:
    """At most one entry a pool counts: the one at `pool.due`. A busy pool costs an entry a window, not one an input."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Pool]] = []
        self._numbers = itertools.count()

    def add(self, pool: Pool, at: float) -> None:
        """Look at the pool at `at`, or before if that was agreed already."""
        if at < pool.due:
            pool.due = at
            heapq.heappush(self._heap, (at, next(self._numbers), pool))

    def next(self) -> float:
        """When the first pool is due; infinity where none is."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].due:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def take(self, now: float) -> Iterator[Pool]:
        """The pools that are due. Whoever looks at one says when it is due again."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _number, pool = heapq.heappop(heap)
            if pool.due == at:
                pool.due = NEVER
                yield pool

    def __len__(self) -> int:
        return len(self._heap)
