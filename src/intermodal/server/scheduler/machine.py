"""The state machine: events in (method calls that carry the time), decisions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from intermodal.server.scheduler.capacity import Capacity
from intermodal.server.scheduler.decisions import Assign, Decision, GiveUp, Recall, Start, Stop
from intermodal.server.scheduler.pool import READY, STARTING, STOPPING, Pool, Slot
from intermodal.server.scheduler.rules import Rules

RECALL_AFTER = 0.05  # seconds an input may run before those behind it are given to other containers
STARTS_PER_CPU = 2.0  # containers that may start at the same time, for each real core
OVERPROVISIONED_FACTOR = 0.25  # of the window, when most of the containers are idle


class Scheduler:
    """Inputs are opaque: any hashable objects. Every method leaves what is to be done in `decisions`."""

    def __init__(self, new_container_id: Callable[[], str], capacity: Capacity | None = None) -> None:
        self.capacity = capacity or Capacity()
        self.decisions: list[Decision] = []
        self.pools: dict[str, Pool] = {}
        self.slots: dict[str, Slot] = {}
        self.paused = False  # after a restart: nothing is assigned until the workers are back
        self._new_container_id = new_container_id
        self._starting = 0
        self._hungry: dict[str, None] = {}  # functions that want containers and got none yet, in turn
        self._watched: dict[str, Slot] = {}  # containers that hold more than they run

    # -- functions
    def put_function(self, function_id: str, app_id: str, rules: Rules, now: float) -> None:
        """A function exists, or its rules have changed."""
        pool = self.pools.get(function_id)
        if pool is None:
            pool = self.pools[function_id] = Pool(function_id, app_id, rules)
        pool.rules = rules
        pool.retired = False
        self._balance(pool, now)

    def retire_function(self, function_id: str, now: float) -> None:
        """It takes no new inputs; its containers end when they are idle, the pool when it is empty."""
        pool = self.pools.get(function_id)
        if pool is not None:
            pool.retired = True
            self._balance(pool, now)
            self._forget_if_empty(pool)

    def remove_function(self, function_id: str, reason: str) -> None:
        """It ends now: what waits is given up; the caller ends its containers."""
        pool = self.pools.pop(function_id, None)
        if pool is None:
            return
        self._hungry.pop(function_id, None)
        waiting = list(pool.queue)
        pool.queue.clear()
        pool.backlog = 0
        pool.retired = True
        for slot in list(pool.slots.values()):
            waiting.extend(slot.inputs)
            if slot.state != STOPPING:
                self._stop(slot, reason)
        if waiting:
            self.decisions.append(GiveUp(function_id, waiting, reason))

    # -- inputs
    def enqueue(self, function_id: str, inputs: Iterable[Any], now: float, front: bool = False) -> None:
        """Inputs wait for a container. `front`: they have waited before (retries, returns)."""
        pool = self.pools[function_id]
        if front:
            pool.queue.extendleft(reversed(list(inputs)))
        else:
            pool.queue.extend(inputs)
        self._feed(pool, now)
        if pool.queue:
            self._scale_up(pool, now)

    def set_backlog(self, function_id: str, count: int, now: float) -> None:
        """That many inputs of the function wait on disk."""
        pool = self.pools.get(function_id)
        if pool is not None:
            pool.backlog = count
            if count:
                self._scale_up(pool, now)

    def withdraw(self, function_id: str, inputs: set[Any]) -> list[Any]:
        """Take inputs out of the queue; returns those that were there (the others are in containers, or done)."""
        pool = self.pools.get(function_id)
        if pool is None or not inputs:
            return []
        found = [item for item in pool.queue if item in inputs]
        if found:
            gone = set(found)
            kept = [item for item in pool.queue if item not in gone]
            pool.queue.clear()
            pool.queue.extend(kept)
        return found

    def finished(self, container_id: str, inputs: Iterable[Any], now: float, seconds: float | None = None) -> None:
        """These inputs of a container have their final output. `seconds`: the mean time that one ran."""
        slot = self.slots.get(container_id)
        if slot is None:
            return
        pool = slot.pool
        held = slot.inputs
        for item in inputs:
            if held.pop(item, None) is not None:
                pool.assigned -= 1
        slot.checked_at = now
        if seconds is not None:
            pool.learn(seconds)
        self._freed(slot, now)

    def returned(self, container_id: str, inputs: list[Any], now: float) -> None:
        """The container gave inputs back unstarted."""
        slot = self.slots.get(container_id)
        if slot is None:
            return
        pool = slot.pool
        back = [item for item in inputs if slot.inputs.pop(item, None) is not None]
        pool.assigned -= len(back)
        slot.served -= len(back)
        pool.queue.extendleft(reversed(back))
        if not slot.inputs:
            self._freed(slot, now)
        else:
            self._feed(pool, now)
            self._scale_up(pool, now)

    # -- containers
    def adopt(self, container_id: str, function_id: str, worker_id: str, ready: bool, now: float) -> bool:
        """A container of an earlier life of the server. False: nobody knows its function."""
        pool = self.pools.get(function_id)
        if pool is None or container_id in self.slots:
            return pool is not None
        slot = self._add_slot(container_id, pool, worker_id, now)
        if ready:
            self.container_ready(container_id, now)
        return slot is not None

    def hold(self, container_id: str, item: Any, now: float) -> None:
        """An adopted container holds this input already."""
        slot = self.slots[container_id]
        slot.inputs[item] = now
        slot.pool.assigned += 1
        slot.pool.idle.pop(container_id, None)

    def container_ready(self, container_id: str, now: float) -> None:
        """Imports and hooks are done: it may get inputs."""
        slot = self.slots.get(container_id)
        if slot is None or slot.state != STARTING:
            return
        slot.state = READY
        slot.idle_since = slot.checked_at = now
        slot.pool.starting -= 1
        slot.pool.ready += 1
        self._starting -= 1
        slot.pool.idle[slot.id] = slot
        self._feed(slot.pool, now)
        self._serve_hungry(now)

    def container_gone(self, container_id: str, now: float) -> list[Any]:
        """It ended, for whatever reason. Returns the inputs that it held: the caller decides what becomes of them."""
        slot = self.slots.pop(container_id, None)
        if slot is None:
            return []
        pool = slot.pool
        pool.slots.pop(container_id, None)
        pool.idle.pop(container_id, None)
        self._watched.pop(container_id, None)
        if slot.state == STARTING:
            pool.starting -= 1
            self._starting -= 1
        elif slot.state == READY:
            pool.ready -= 1
        pool.assigned -= len(slot.inputs)
        self.capacity.give(slot.worker_id, pool.rules.request)
        self._forget_if_empty(pool)
        self._serve_hungry(now)
        return list(slot.inputs)

    def drain(self, container_id: str, now: float) -> None:
        """It gets no more inputs (it is being stopped, or its worker leaves)."""
        slot = self.slots.get(container_id)
        if slot is None or slot.state == STOPPING:
            return
        if slot.inputs:
            self._leave(slot)
            slot.state = STOPPING
            slot.drained = True
        else:
            self._stop(slot, "replaced or asked to end")
        self._balance(slot.pool, now)

    def pause(self) -> None:
        """Assign and start nothing until `resume`."""
        self.paused = True

    def resume(self, now: float) -> None:
        self.paused = False
        for pool in list(self.pools.values()):
            self._feed(pool, now)
            self._balance(pool, now)

    def swap(self, container_id: str, old: Any, new: Any) -> None:
        """The container now works for `new`: the old input waits elsewhere (a timed-out attempt that is retried)."""
        slot = self.slots.get(container_id)
        if slot is not None and old in slot.inputs:
            slot.inputs = {new if item is old else item: at for item, at in slot.inputs.items()}

    def hold_starts(self, function_id: str, until: float, now: float) -> None:
        """Start no container of the function before `until`: its last ones failed."""
        pool = self.pools.get(function_id)
        if pool is not None:
            pool.starts_after = until
            self._hungry.pop(function_id, None)

    # -- time
    def tick(self, now: float) -> float:
        """Do what time alone calls for; returns when to tick again (an instant; infinity: not before another event)."""
        due = float("inf")
        if self.paused:
            return due
        for slot in list(self._watched.values()):
            at = slot.checked_at + RECALL_AFTER
            if len(slot.inputs) <= slot.pool.rules.limit:
                del self._watched[slot.id]
            elif at <= now:
                del self._watched[slot.id]
                waiting = list(slot.inputs)[slot.pool.rules.limit :]
                slot.pool.learn(now - slot.checked_at)
                self.decisions.append(Recall(slot.id, waiting))
            else:
                due = min(due, at)
        for pool in list(self.pools.values()):
            if pool.batch_due and pool.batch_due <= now:
                self._feed(pool, now)
            if pool.batch_due:
                due = min(due, pool.batch_due)
            if pool.starts_after:
                if pool.starts_after <= now:
                    pool.starts_after = 0.0
                    self._scale_up(pool, now)
                else:
                    due = min(due, pool.starts_after)
            due = min(due, self._scale_down(pool, now))
        self._serve_hungry(now)
        return due

    # -- the inside
    def _add_slot(self, container_id: str, pool: Pool, worker_id: str, now: float) -> Slot:
        slot = Slot(container_id, pool, worker_id, now)
        pool.slots[container_id] = slot
        self.slots[container_id] = slot
        pool.starting += 1
        self._starting += 1
        self.capacity.take(worker_id, pool.rules.request)
        return slot

    def _feed(self, pool: Pool, now: float) -> None:
        """Give waiting inputs to containers that have room."""
        queue = pool.queue
        if not queue or self.paused:
            return
        if pool.rules.batch_size:
            self._feed_batches(pool, now)
            return
        idle = pool.idle
        rules = pool.rules
        depth = pool.depth()
        if idle:
            # An even share for each idle container, so that a small queue is not swallowed by the first one.
            while queue and idle:
                share = min(-(-len(queue) // len(idle)), depth)
                _, slot = idle.popitem()
                self._assign(slot, share, now)
        if not queue or pool.ready <= 0:
            return
        if depth > 1 or rules.limit > 1:
            # Fill only what is half empty: full batches cost less than many small ones.
            low = rules.limit if rules.limit > 1 else depth // 2
            rooms = [slot for slot in pool.slots.values() if slot.state == READY and len(slot.inputs) <= low]
            rooms.sort(key=lambda slot: len(slot.inputs))
            for position, slot in enumerate(rooms):
                room = depth - len(slot.inputs)
                share = min(room, -(-len(queue) // (len(rooms) - position)))
                if share > 0:
                    self._assign(slot, share, now)
                if not queue:
                    return

    def _feed_batches(self, pool: Pool, now: float) -> None:
        rules = pool.rules
        while pool.queue and pool.idle:
            size = len(pool.queue)
            if size < rules.batch_size:
                if not pool.batch_due:
                    pool.batch_due = now + rules.batch_wait
                if now < pool.batch_due:
                    return
            pool.batch_due = 0.0
            _, slot = pool.idle.popitem()
            self._assign(slot, min(size, rules.batch_size), now, batch=True)

    def _assign(self, slot: Slot, count: int, now: float, batch: bool = False) -> None:
        pool = slot.pool
        count = min(count, slot.life_left)
        queue, held = pool.queue, slot.inputs
        inputs = [queue.popleft() for _ in range(min(count, len(queue)))]
        if not inputs:
            return
        if not held:
            slot.checked_at = now
        for item in inputs:
            held[item] = now
        pool.assigned += len(inputs)
        slot.served += len(inputs)
        if len(held) > pool.rules.limit and not batch:
            self._watched[slot.id] = slot
        self.decisions.append(Assign(slot.id, inputs, batch))
        if slot.life_left <= 0:
            self._leave(slot)
            slot.state = STOPPING  # the runner ends by itself after its last input
        elif not slot.inputs:
            pool.idle[slot.id] = slot

    def _freed(self, slot: Slot, now: float) -> None:
        """A container has more room than before."""
        pool = slot.pool
        if slot.drained and not slot.inputs:
            slot.drained = False
            self.decisions.append(Stop(slot.id, "replaced or asked to end"))
        if slot.state == READY:
            if not slot.inputs:
                slot.idle_since = now
                pool.idle[slot.id] = slot
                self._watched.pop(slot.id, None)
            if pool.queue:
                self._feed(pool, now)
            if not slot.inputs and pool.retired and not pool.queue and slot.state == READY:
                self._stop(slot, "replaced by a newer version")
        if pool.queue or pool.backlog:
            if pool.starting == 0:
                self._scale_up(pool, now)
        elif not pool.assigned:
            pool.active_until = now
            self._hungry.pop(pool.function_id, None)
            self._forget_if_empty(pool)

    def _balance(self, pool: Pool, now: float) -> None:
        self._scale_up(pool, now)
        self._scale_down(pool, now)

    def _desired(self, pool: Pool) -> int:
        """Containers that the function shall have, its own limits considered."""
        rules = pool.rules
        wanted = pool.wanted()
        if pool.retired:
            return wanted if not pool.ready else 0
        if wanted:
            wanted += rules.buffer_containers
        wanted = max(wanted, rules.min_containers)
        return min(wanted, rules.max_containers) if rules.max_containers else wanted

    def _scale_up(self, pool: Pool, now: float) -> None:
        missing = self._desired(pool) - pool.ready - pool.starting
        if missing > 0 and not self.paused and now >= pool.starts_after:
            self._hungry[pool.function_id] = None
            self._serve_hungry(now)
        else:
            self._hungry.pop(pool.function_id, None)

    def _serve_hungry(self, now: float) -> None:
        """Start containers in turn, one for each function that lacks some, while there is room."""
        if self.paused or not self._hungry:
            return
        cpus = sum(worker.cpu for worker in self.capacity.workers.values()) / self.capacity._overcommit
        limit = max(2, int(cpus * STARTS_PER_CPU))
        refused = 0
        while self._hungry and self._starting < limit and refused < len(self._hungry):
            function_id = next(iter(self._hungry))
            del self._hungry[function_id]
            pool = self.pools.get(function_id)
            if pool is None or self._desired(pool) <= pool.ready + pool.starting:
                continue
            first = pool.ready + pool.starting == 0
            worker_id = self.capacity.place(pool.rules.request, must=first)
            self._hungry[function_id] = None  # again, after the others
            if not worker_id:
                worker_id = self._evict(pool, now)
                refused += 1
                if not worker_id:
                    continue
            refused = 0
            slot = self._add_slot(self._new_container_id(), pool, worker_id, now)
            self.decisions.append(Start(slot.id, function_id, worker_id))

    def _evict(self, pool: Pool, now: float) -> str:
        """Make room by ending an idle container of another function that keeps more than its minimum."""
        for other in self.pools.values():
            if other is pool or not other.idle or other.queue:
                continue
            if other.ready > other.rules.min_containers:
                slot = next(iter(other.idle.values()))
                self._stop(slot, "another function needs the room")
                return ""  # the room is there when it has ended
        return ""

    def _scale_down(self, pool: Pool, now: float) -> float:
        """End idle containers whose window is over; returns when the next one's will be."""
        due = float("inf")
        if not pool.idle or pool.queue:
            return due
        rules = pool.rules
        active = pool.assigned > 0
        floor = rules.min_containers + (rules.buffer_containers if active else 0)
        if pool.retired:
            floor = 0
        window = 0.0 if pool.retired else rules.scaledown_window
        if not pool.retired and len(pool.idle) > 4 and len(pool.idle) > 0.75 * pool.ready:
            window = max(2.0, window * OVERPROVISIONED_FACTOR)
        surplus = pool.ready - floor
        for slot in list(pool.idle.values()):  # the least recently used first
            if surplus <= 0:
                break
            at = slot.idle_since + window
            if at <= now:
                self._stop(slot, "idle")
                surplus -= 1
            else:
                due = min(due, at)
        return due

    def _leave(self, slot: Slot) -> None:
        """The slot gets no more inputs."""
        pool = slot.pool
        pool.idle.pop(slot.id, None)
        self._watched.pop(slot.id, None)
        if slot.state == READY:
            pool.ready -= 1
        elif slot.state == STARTING:
            pool.starting -= 1
            self._starting -= 1

    def _stop(self, slot: Slot, reason: str) -> None:
        self._leave(slot)
        slot.state = STOPPING
        self.decisions.append(Stop(slot.id, reason))

    def _forget_if_empty(self, pool: Pool) -> None:
        if pool.retired and not pool.slots and not pool.queue and not pool.backlog:
            self.pools.pop(pool.function_id, None)
            self._hungry.pop(pool.function_id, None)
