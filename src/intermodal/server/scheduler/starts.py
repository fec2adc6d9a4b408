"""Which function gets the next container, while not all can have what they want."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intermodal.server.scheduler.agenda import NEVER
from intermodal.server.scheduler.gpus import usable
from intermodal.server.scheduler.pool import READY, Pool, Slot
from intermodal.server.scheduler.turns import Turns

if TYPE_CHECKING:
    from intermodal.server.scheduler.machine import Scheduler

STARTS_PER_CORE = 2.0  # containers that may start at the same time
STARTS_MIN = 2  # the same for the smallest machine
EVICT_IDLE = 1.0  # seconds that a container must have idled before it makes room for another function
EVICT_WITHIN = 10.0  # seconds after which the end of a container that makes room is not waited for any more
TURN = 30.0  # seconds that a function's only, or its minimum of containers run before they make room for another's work
CLAIM = 60.0  # seconds for which devices are kept for a function that waits for several of them
RETRY_SECONDS = 0.5  # how often those that found no room try again
EVICTERS = 2  # functions that look for containers that make room, in one go
TRIES = 32  # functions that are refused in one go before it counts as "no room"
RIVALS = 8  # apps that wait, among which one is looked for that has less
UNFAIR = 2  # containers more than another one has, from which on that one goes first


class Starts:
    """Functions that lack containers, in turn: first those that have none at all; app by app, so that many functions
    get an app no more than one would.

    Where there is no room, containers make some: idle ones first, then busy ones of whoever (app, then function) has
    more containers than the one that waits, once they have finished their inputs. So a flood of inputs delays those
    of others by no more than one of its inputs takes.

    The first container of a function starts without room, as others may wait for what it does. That does not hold for
    an app that has more than another one that waits for room too: there one more starts so in each `TURN`.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.running = 0  # containers that start now
        self.retry_at = NEVER  # when those without room try again
        self._scheduler = scheduler
        self._starving = Turns()  # they have no container at all
        self._hungry = Turns()
        self._evicted: dict[str, float] = {}  # containers that end to make room, and until when that is waited for
        self._favoured: Pool | None = None  # for whom they make it
        self._turn = 0  # who of those that are refused may look for containers that make room
        self._claim: Pool | None = None  # for whom devices are kept
        self._claim_until = float("-inf")  # after that none is made for as long again

    def want(self, pool: Pool, now: float) -> None:
        """The function wants more containers than it has. One that waits already goes on waiting."""
        starving = pool.ready + pool.starting == 0
        waiting = self._starving if starving else self._hungry
        if pool in waiting:
            return
        self.forget(pool)
        waiting.add(pool)
        self.serve(now)

    def forget(self, pool: Pool) -> None:
        """It wants no more."""
        for waiting in (self._starving, self._hungry):
            waiting.discard(pool)
        self._settled(pool)

    def _settled(self, pool: Pool) -> None:
        pool.waits_since = NEVER
        if self._claim is pool:
            self._claim = None
        if self._favoured is pool:
            self._favoured = None

    def gone(self, container_id: str) -> None:
        """A container has ended."""
        self._evicted.pop(container_id, None)

    def serve(self, now: float) -> None:
        """Start containers in turn, one for each function that lacks some, while there is room."""
        self.retry_at = NEVER
        if self._scheduler.paused or not (self._starving or self._hungry):
            return
        self._favour(now)
        next_loan = self._scheduler.loans.lend(now)
        self._serve_all(self._starving, now, crowding=False)
        self._serve_all(self._hungry, now, crowding=True)
        self._serve_all(self._starving, now, crowding=True)  # whoever may have what the others have left
        self._turn += EVICTERS
        if (self._starving or self._hungry) and self.running < self._limit():
            self.retry_at = min(now + RETRY_SECONDS, next_loan)

    def _limit(self) -> int:
        return max(STARTS_MIN, int(self._scheduler.capacity.cores * STARTS_PER_CORE))

    def _serve_all(self, waiting: Turns, now: float, crowding: bool) -> None:
        """Serve those in the row until there is no room. Without `crowding`, whoever must let others go first has to
        wait."""
        limit = self._limit()
        refused = 0
        while waiting and self.running < limit and refused < (tries := min(len(waiting), TRIES)):
            may_evict = (refused - self._turn) % tries < EVICTERS
            pool = waiting.pop()
            refused = 0 if self._serve_one(pool, waiting, now, may_evict, crowding) else refused + 1

    def _favour(self, now: float) -> None:
        """Whoever room was made for is the first to be offered it."""
        for container_id, until in list(self._evicted.items()):
            if until <= now:
                del self._evicted[container_id]
        pool = self._favoured
        if pool is None or self._evicted:
            return
        self._favoured = None
        for waiting in (self._starving, self._hungry):
            waiting.favour(pool)

    def _serve_one(self, pool: Pool, waiting: Turns, now: float, may_evict: bool, crowding: bool) -> bool:
        """One start for a function of this row. False: there is no room for it, and it stands there again."""
        scheduler = self._scheduler
        has = pool.ready + pool.starting
        if pool.desired() <= has:
            self._settled(pool)
            return True
        must = not has
        if must and self._crowds(pool):
            must = self._is_forced(pool, now)
            if not must and not crowding:
                waiting.add(pool)
                return False
        request = pool.rules.request
        worker_id = "" if self._is_kept(pool, now) else scheduler.capacity.place(request, must=must)
        if not worker_id:
            problem = scheduler.capacity.problem(request) if not has else ""
            if problem:
                scheduler.refuse(pool, problem)
            waiting.add(pool)
            pool.waits_since = min(pool.waits_since, now)
            if may_evict and not problem:
                self._make_room(pool, now)
            return False
        self._settled(pool)
        scheduler.start(pool, worker_id, now)
        if pool.desired() > has + 1:
            self._hungry.add(pool)
        return True

    def _crowds(self, pool: Pool) -> bool:
        """Whether its app has more than another one that waits for room, too."""
        mine = pool.share.containers
        if mine < UNFAIR:
            return False
        for waiting in (self._starving, self._hungry):
            for other in waiting.heads(RIVALS):
                if other.share.containers + UNFAIR <= mine and not (other.rules.request.gpus or other.replaces):
                    return True
        return False

    def _is_forced(self, pool: Pool, now: float) -> bool:
        """Whether it has waited for so long that it starts without room: something may wait for it."""
        share = pool.share
        if pool.waits_since + TURN > now or share.forced_at + TURN > now:
            return False
        share.forced_at = now
        return True

    # -- room
    def _is_kept(self, pool: Pool, now: float) -> bool:
        """Whether the devices that would serve the function are kept for another one that waits for several."""
        claim = self._claim
        if claim is None or claim is pool or not pool.rules.request.gpus:
            return False
        if self._claim_until <= now:
            self._claim = None
            return False
        return any(usable(claim.rules.request.gpus, gpu.kind) for gpu in pool.rules.request.gpus)

    def _make_room(self, pool: Pool, now: float) -> None:
        """Let one container of another function end, if that helps and is fair."""
        if self._evicted:
            return
        slot = self._idle_one(pool, now) or self._busy_one(pool, now)
        if slot is None:
            return
        self._evicted[slot.id] = now + EVICT_WITHIN
        self._favoured = pool
        if pool.rules.request.gpus and self._claim is None and now >= self._claim_until + CLAIM:
            self._claim, self._claim_until = pool, now + CLAIM
        self._scheduler.evict(slot, now)

    def _idle_one(self, pool: Pool, now: float) -> Slot | None:
        """The one that idles longest of those that are not part of a minimum."""
        idle = self._scheduler.longest_idle()
        for slot in list(_first(idle, TRIES)):
            if slot.idle_since + EVICT_IDLE > now:
                return None
            if not slot.pool.queue and self._may_go(slot, pool, now):
                return slot
            del idle[slot.id]  # kept: look at others first next time
            idle[slot.id] = slot
        return None

    def _busy_one(self, pool: Pool, now: float) -> Slot | None:
        """One of a function that has more than its share, and more to do than its containers hold."""
        has = pool.ready + pool.starting
        for slot in self._scheduler.some_slots(TRIES):
            other = slot.pool
            if slot.state != READY or not slot.inputs or not other.queue or not self._may_go(slot, pool, now):
                continue
            if slot.waiting:
                continue  # it ends no sooner than what it waits for, which may be this
            its = other.ready + other.starting
            had_turn = slot.started_at + TURN <= now
            if other.share is pool.share:
                unfair = its >= has + UNFAIR
            else:
                unfair = other.share.containers >= pool.share.containers + UNFAIR and (its > 1 or had_turn)
            if unfair or pool.replaces is other or (not has and had_turn):
                return slot
        return None

    def _may_go(self, slot: Slot, pool: Pool, now: float) -> bool:
        other, request = slot.pool, pool.rules.request
        if other is pool or other.replaces is not None:
            return False
        # Work that has waited for long, without any container, counts for more than another function's minimum.
        urgent = bool(pool.queue) and not pool.ready + pool.starting and pool.waits_since + TURN <= now
        if other.ready <= other.rules.min_containers and pool.replaces is not other and not urgent:
            return False
        if not request.gpus:
            return True
        worker = self._scheduler.capacity.workers.get(slot.worker_id)
        kinds = [worker.devices.get(device, "") for device in slot.taken.devices] if worker is not None else []
        return any(usable(request.gpus, kind) for kind in kinds)


def _first(slots: dict[str, Slot], count: int) -> list[Slot]:
    found = []
    for slot in slots.values():
        found.append(slot)
        if len(found) == count:
            break
    return found
