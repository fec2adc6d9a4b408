"""Which function gets the next container, while not all can have what they want."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from intermodal.server.scheduler.agenda import NEVER
from intermodal.server.scheduler.pool import Pool, Slot

if TYPE_CHECKING:
    from intermodal.server.scheduler.machine import Scheduler

STARTS_PER_CORE = 2.0  # containers that may start at the same time
STARTS_MIN = 2  # the same for the smallest machine
EVICT_IDLE = 1.0  # seconds that a container must have idled before it makes room for another function
RETRY_SECONDS = 0.5  # how often those that found no room try again
TRIES = 32  # functions that are refused in one go before it counts as "no room"


class Starts:
    """Functions that lack containers, in turn: first those that have none at all."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.running = 0  # containers that start now
        self.retry_at = NEVER  # when those without room try again
        self._scheduler = scheduler
        self._starving: OrderedDict[str, Pool] = OrderedDict()  # they have no container at all
        self._hungry: OrderedDict[str, Pool] = OrderedDict()
        self._evicted: set[str] = set()  # containers that end to make room

    def want(self, pool: Pool, now: float) -> None:
        """The function wants more containers than it has. One that waits already goes on waiting."""
        starving = pool.ready + pool.starting == 0
        if pool.function_id in (self._starving if starving else self._hungry):
            return
        self.forget(pool)
        (self._starving if starving else self._hungry)[pool.function_id] = pool
        self.serve(now)

    def forget(self, pool: Pool) -> None:
        """It wants no more."""
        for waiting in (self._starving, self._hungry):
            if waiting.get(pool.function_id) is pool:
                del waiting[pool.function_id]

    def gone(self, container_id: str) -> None:
        """A container has ended."""
        self._evicted.discard(container_id)

    def serve(self, now: float) -> None:
        """Start containers in turn, one for each function that lacks some, while there is room."""
        self.retry_at = NEVER
        if self._scheduler.paused or not (self._starving or self._hungry):
            return
        limit = max(STARTS_MIN, int(self._scheduler.capacity.cores * STARTS_PER_CORE))
        for waiting in (self._starving, self._hungry):
            refused = 0
            while waiting and self.running < limit and refused < min(len(waiting), TRIES):
                refused = 0 if self._serve_first(waiting, now) else refused + 1
        if (self._starving or self._hungry) and self.running < limit:
            self.retry_at = now + RETRY_SECONDS

    def _serve_first(self, waiting: OrderedDict[str, Pool], now: float) -> bool:
        """One start for the first in the row, who then stands last. False: there is no room for it."""
        scheduler = self._scheduler
        _, pool = waiting.popitem(last=False)
        has = pool.ready + pool.starting
        if scheduler.desired(pool) <= has:
            return True
        worker_id = scheduler.capacity.place(pool.rules.request, must=not has)
        if not worker_id:
            waiting[pool.function_id] = pool
            if has:
                self._make_room(pool, now)
            return False
        scheduler.start(pool, worker_id, now)
        if scheduler.desired(pool) > has + 1:
            self._hungry[pool.function_id] = pool
        return True

    def _make_room(self, pool: Pool, now: float) -> None:
        """End an idle container of another function that keeps more than its minimum; one at a time."""
        if self._evicted:
            return
        idle = self._scheduler.longest_idle()
        for slot in _first(idle, TRIES):
            if slot.idle_since + EVICT_IDLE > now:
                return
            other = slot.pool
            if other is not pool and not other.queue and other.ready > other.rules.min_containers:
                self._evicted.add(slot.id)
                self._scheduler.evict(slot)
                return
            del idle[slot.id]  # kept: look at others first next time
            idle[slot.id] = slot


def _first(slots: dict[str, Slot], count: int) -> list[Slot]:
    found = []
    for slot in slots.values():
        found.append(slot)
        if len(found) == count:
            break
    return found
