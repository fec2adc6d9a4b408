"""The state machine: events in (method calls that carry the time), decisions out.

No event that an input causes costs more because there are many functions, or many waiting inputs.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from intermodal.server.scheduler.agenda import NEVER, Agenda
from intermodal.server.scheduler.capacity import Capacity
from intermodal.server.scheduler.decisions import Assign, Decision, GiveUp, Refuse, Start, Stop
from intermodal.server.scheduler.lack import lack_of
from intermodal.server.scheduler.loans import Loans
from intermodal.server.scheduler.overfull import Overfull
from intermodal.server.scheduler.pool import READY, STALL_SECONDS, STARTING, STOPPING, Pool, Share, Slot
from intermodal.server.scheduler.rules import Rules
from intermodal.server.scheduler.starts import Starts

DRAINED = "replaced or asked to end"


class Scheduler:
    """Inputs are opaque: any hashable objects. Every method leaves what is to be done in `decisions`."""

    def __init__(self, new_container_id: Callable[[], str], capacity: Capacity | None = None) -> None:
        self.capacity = capacity or Capacity()
        self.decisions: list[Decision] = []
        self.pools: dict[str, Pool] = {}
        self.slots: dict[str, Slot] = {}
        self.paused = False  # after a restart: nothing is assigned until the workers are back
        self._new_container_id = new_container_id
        self.loans = Loans(self.capacity)
        self._shares: weakref.WeakValueDictionary[str, Share] = weakref.WeakValueDictionary()  # by app
        self._starts = Starts(self)
        self._agenda = Agenda()
        self._overfull = Overfull()
        self._idle: dict[str, Slot] = {}  # of all functions, the one that idles longest first

    # -- functions
    def put_function(self, function_id: str, app_id: str, rules: Rules, now: float) -> None:
        """A function exists, or its rules have changed."""
        pool = self.pools.get(function_id)
        if pool is None:
            share = self._shares.setdefault(app_id, Share())
            pool = self.pools[function_id] = Pool(function_id, app_id, rules, share)
        self._set_rules(pool, rules, now)
        pool.retired = False
        self._trim(pool)
        self._balance(pool, now)

    def _set_rules(self, pool: Pool, rules: Rules, now: float) -> None:
        pool.rules = rules
        for slot in pool.slots.values():  # how many inputs of it run decides whether it may lend
            self.loans.look(slot, now)

    def _trim(self, pool: Pool) -> None:
        """A lower limit holds at once: what is too many starts no more, or ends when its inputs are done."""
        limit = pool.rules.max_containers
        surplus = pool.ready + pool.starting - limit if limit else 0
        if surplus <= 0:
            return
        slots = [slot for slot in pool.slots.values() if slot.state != STOPPING]
        slots.sort(key=lambda slot: (slot.state == READY, len(slot.inputs)))
        for slot in slots[:surplus]:
            self._retire(slot) if slot.inputs else self._stop(slot, "more than its function may have")

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
        self._starts.forget(pool)
        waiting = pool.queue.take(len(pool.queue))
        pool.backlog = 0
        pool.retired = True
        for slot in list(pool.slots.values()):
            waiting.extend(slot.inputs)
            if slot.state != STOPPING:
                self._stop(slot, reason)
            elif slot.drained:  # it would have gone on to the end of its inputs
                slot.drained = False
                self.decisions.append(Stop(slot.id, reason))
        if waiting:
            self.decisions.append(GiveUp(function_id, waiting, reason))

    # -- inputs
    def enqueue(self, function_id: str, inputs: Iterable[Any], now: float, front: bool = False) -> None:
        """Inputs wait for a container. `front`: they have waited before (retries, returns)."""
        pool = self.pools[function_id]
        if front:
            pool.queue.extend_front(list(inputs), now)
        else:
            pool.queue.extend(list(inputs), now)
        self._feed(pool, now)
        if pool.queue or pool.rules.buffer_containers:
            self._scale_up(pool, now)

    def set_backlog(self, function_id: str, count: int, now: float) -> None:
        """That many inputs of the function wait on disk."""
        pool = self.pools.get(function_id)
        if pool is not None:
            pool.backlog = count
            if count:
                self._scale_up(pool, now)
            else:
                self._forget_if_empty(pool)

    def withdraw(self, function_id: str, inputs: Iterable[Any]) -> list[Any]:
        """Take inputs out of the queue; returns those that were there (the others are in containers, or done)."""
        pool = self.pools.get(function_id)
        if pool is None:
            return []
        found = [item for item in inputs if pool.queue.remove(item)]
        if found and not pool.queue:
            pool.batch_due = 0.0
            self._forget_if_empty(pool)
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
                if slot.waiting:
                    self.loans.left(slot, [item], now)
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
        self.loans.left(slot, back, now)
        if self.pools.get(pool.function_id) is not pool:
            self.decisions.append(GiveUp(pool.function_id, back, "the function was removed"))
            return
        pool.queue.extend_front(back, now)
        if not slot.inputs:
            self._freed(slot, now)
        self._feed(pool, now)
        if pool.queue:
            self._scale_up(pool, now)

    # -- containers
    def adopt(
        self,
        container_id: str,
        function_id: str,
        worker_id: str,
        ready: bool,
        now: float,
        devices: tuple[str, ...] = (),
    ) -> bool:
        """A container of an earlier life of the server, with the GPUs that it has. False: nobody knows its function.

        What it holds follows with `hold`; `adopted` ends the list.
        """
        pool = self.pools.get(function_id)
        if pool is None or container_id in self.slots:
            return pool is not None
        slot = self._add_slot(container_id, pool, worker_id, now, devices)
        if ready:
            self._become_ready(slot, now)
        return True

    def hold(self, container_id: str, item: Any, now: float) -> None:
        """An adopted container holds this input already."""
        slot = self.slots[container_id]
        slot.pool.queue.remove(item)
        slot.inputs[item] = now
        slot.served += 1
        slot.pool.assigned += 1
        self._unidle(slot)

    def adopted(self, container_id: str, now: float) -> None:
        """All that the container holds is known: it may get more."""
        slot = self.slots.get(container_id)
        if slot is not None and slot.state == READY:
            self._freed(slot, now)

    def container_ready(self, container_id: str, now: float) -> None:
        """Imports and hooks are done: it may get inputs."""
        slot = self.slots.get(container_id)
        if slot is None or slot.state != STARTING:
            return
        self._become_ready(slot, now)
        self._feed(slot.pool, now)
        self._starts.serve(now)

    def container_gone(self, container_id: str, now: float) -> list[Any]:
        """It ended, for whatever reason. Returns the inputs that it held: the caller decides what becomes of them."""
        slot = self.slots.pop(container_id, None)
        if slot is None:
            return []
        pool = slot.pool
        self._leave(slot)
        pool.slots.pop(container_id, None)
        self.loans.forget(slot)
        pool.assigned -= len(slot.inputs)
        if not pool.assigned:
            pool.active_until = now
        self.capacity.give(slot.worker_id, slot.taken)
        self._starts.gone(container_id)
        if self.pools.get(pool.function_id) is pool:
            self._scale_up(pool, now)  # it may have fewer than its minimum
            self._forget_if_empty(pool)
        self._starts.serve(now)
        return list(slot.inputs)

    def drain(self, container_id: str, now: float) -> None:
        """It gets no more inputs (it is being stopped, or its worker leaves)."""
        slot = self.slots.get(container_id)
        if slot is None or slot.state == STOPPING:
            return
        if slot.inputs:
            self._retire(slot)
        else:
            self._stop(slot, DRAINED)
        self._balance(slot.pool, now)

    def pause(self) -> None:
        """Assign and start nothing until `resume`."""
        self.paused = True

    def resume(self, now: float) -> None:
        """Go on; also after workers have come that may have room."""
        self.paused = False
        for pool in list(self.pools.values()):
            self._feed(pool, now)
            self._balance(pool, now)
        self._starts.serve(now)

    def swap(self, container_id: str, old: Any, new: Any, now: float) -> None:
        """The container now works for `new`: the old input waits elsewhere (a timed-out attempt that is retried)."""
        slot = self.slots.get(container_id)
        if slot is not None and old in slot.inputs:
            slot.inputs = {new if item is old else item: at for item, at in slot.inputs.items()}
            self.loans.left(slot, [old], now)

    # -- calls of containers
    def waits(self, container_id: str, item: Any, now: float) -> None:
        """This input of the container waits for a call that it has made."""
        slot = self.slots.get(container_id)
        if slot is not None:
            self.loans.waits(slot, item, now)

    def goes_on(self, container_id: str, item: Any, now: float) -> None:
        """That call is over."""
        slot = self.slots.get(container_id)
        if slot is not None and slot.waiting:
            self.loans.goes_on(slot, item, now)

    def hold_starts(self, function_id: str, until: float) -> None:
        """Start no container of the function before `until`: its last ones failed."""
        pool = self.pools.get(function_id)
        if pool is not None:
            pool.starts_after = until
            self._starts.forget(pool)
            self._agenda.add(pool, until)

    # -- time
    @property
    def due(self) -> float:
        """When `tick` must be called next (an instant; infinity: not before another event)."""
        return NEVER if self.paused else min(self._agenda.next(), self._overfull.due, self._starts.retry_at)

    def serve(self, now: float) -> None:
        """Something has become free by other means than the end of a container."""
        self._starts.serve(now)

    def tick(self, now: float) -> float:
        """Do what time alone calls for; returns `due`."""
        if self.paused:
            return NEVER
        if self._overfull.due <= now:
            self.decisions.extend(self._overfull.recalls(now))
        for pool in list(self._agenda.take(now)):
            if self.pools.get(pool.function_id) is pool:
                self._tend(pool, now)
        if self._starts.retry_at <= now:
            self._starts.serve(now)
        return self.due

    def _tend(self, pool: Pool, now: float) -> None:
        if pool.batch_due and pool.batch_due <= now:
            self._feed(pool, now)
        if pool.starts_after and pool.starts_after <= now:
            pool.starts_after = 0.0
            self._scale_up(pool, now)
        if pool.queue and pool.has_short_inputs():
            pool.look_for_stalled(now)
            self._scale_up(pool, now)
        self._scale_down(pool, now)
        for at in (pool.batch_due, pool.starts_after):
            if at > now:
                self._agenda.add(pool, at)

    # -- assignment
    def _feed(self, pool: Pool, now: float) -> None:
        """Give waiting inputs to containers that have room."""
        queue = pool.queue
        if not queue or self.paused:
            return
        if pool.rules.batch_size:
            self._feed_batches(pool, now)
            return
        depth = pool.depth()
        idle = pool.idle
        while queue and idle:
            # An even share for each idle container, so that a small queue is not swallowed by the first one.
            share = min(-(-len(queue) // len(idle)), depth)
            self._assign(idle[next(reversed(idle))], share, now)
        if not queue or not pool.open:
            return
        low = pool.low(depth)
        rooms = [slot for slot in pool.open.values() if len(slot.inputs) <= low]
        rooms.sort(key=lambda slot: len(slot.inputs))
        for position, slot in enumerate(rooms):
            share = min(depth - len(slot.inputs), -(-len(queue) // (len(rooms) - position)))
            self._assign(slot, share, now)
            if not queue:
                return

    def _feed_batches(self, pool: Pool, now: float) -> None:
        rules = pool.rules
        while pool.queue:
            size = len(pool.queue)
            if size < rules.batch_size:
                if not pool.batch_due:
                    pool.batch_due = pool.queue.first_came() + rules.batch_wait
                if now < pool.batch_due:
                    self._agenda.add(pool, pool.batch_due)
                    return
            if not pool.idle:
                return
            pool.batch_due = 0.0
            self._assign(pool.idle[next(reversed(pool.idle))], min(size, rules.batch_size), now, batch=True)

    def _assign(self, slot: Slot, count: int, now: float, batch: bool = False) -> None:
        pool = slot.pool
        held = slot.inputs
        inputs = pool.queue.take(min(count, slot.life_left))
        if not inputs:
            return
        if not held:
            slot.checked_at = now
            pool.idle.pop(slot.id, None)
            self._idle.pop(slot.id, None)
        for item in inputs:
            held[item] = now
        pool.assigned += len(inputs)
        slot.served += len(inputs)
        self.decisions.append(Assign(slot.id, inputs, batch))
        if slot.waiting:
            self.loans.look(slot, now)
        if slot.life_left <= 0:
            self._retire(slot)
            return
        limit = pool.rules.limit
        if len(held) > limit and not batch:
            self._overfull.add(slot)
        if not batch:
            if len(held) <= pool.low(pool.depth()):
                pool.open[slot.id] = slot
            else:
                pool.open.pop(slot.id, None)

    def _freed(self, slot: Slot, now: float) -> None:
        """A container has more room than before."""
        pool = slot.pool
        held = slot.inputs
        if slot.state == READY:
            queue = pool.queue
            if queue and not self.paused:
                if pool.rules.batch_size:
                    if not held:
                        self._become_idle(slot, now)
                        self._feed_batches(pool, now)
                else:
                    depth = pool.depth()
                    if not held or len(held) <= pool.low(depth):
                        self._assign(slot, min(depth - len(held), -(-len(queue) // pool.ready)), now)
            if slot.state != READY:
                pass  # that was the last it may take
            elif not held:
                self._become_idle(slot, now)
                if pool.retired and not queue:
                    self._stop(slot, "replaced by a newer version")
            elif slot.id not in pool.open and len(held) <= pool.low(pool.depth()):
                pool.open[slot.id] = slot
        elif slot.drained and not held:
            slot.drained = False
            self.decisions.append(Stop(slot.id, DRAINED))
        if pool.queue or pool.backlog:
            if pool.starting == 0:
                self._scale_up(pool, now)
        elif not pool.assigned:
            pool.active_until = now
            self._starts.forget(pool)
            self._forget_if_empty(pool)

    # -- the states of a container
    def _add_slot(
        self, container_id: str, pool: Pool, worker_id: str, now: float, devices: tuple[str, ...] | None = None
    ) -> Slot:
        slot = Slot(container_id, pool, worker_id, self.capacity.take(worker_id, pool.rules.request, devices), now)
        pool.slots[container_id] = slot
        self.slots[container_id] = slot
        pool.starting += 1
        pool.share.containers += 1
        self._starts.running += 1
        return slot

    def _become_ready(self, slot: Slot, now: float) -> None:
        slot.state = READY
        slot.checked_at = now
        slot.pool.starting -= 1
        slot.pool.ready += 1
        self._starts.running -= 1
        self._become_idle(slot, now)

    def _become_idle(self, slot: Slot, now: float) -> None:
        pool = slot.pool
        if slot.id in pool.idle:
            return
        slot.idle_since = now
        pool.idle[slot.id] = slot
        self._idle[slot.id] = slot
        pool.open.pop(slot.id, None)
        self._overfull.drop(slot)
        self._agenda.add(pool, now + pool.window())

    def _unidle(self, slot: Slot) -> None:
        slot.pool.idle.pop(slot.id, None)
        self._idle.pop(slot.id, None)

    def _leave(self, slot: Slot) -> None:
        """The slot gets no more inputs."""
        pool = slot.pool
        self._unidle(slot)
        pool.open.pop(slot.id, None)
        self._overfull.drop(slot)
        if slot.state == STOPPING:
            return
        pool.share.containers -= 1
        if slot.state == READY:
            pool.ready -= 1
        else:
            pool.starting -= 1
            self._starts.running -= 1

    def _retire(self, slot: Slot) -> None:
        """It finishes what it has, and ends."""
        self._leave(slot)
        slot.state = STOPPING
        slot.drained = True

    def _stop(self, slot: Slot, reason: str) -> None:
        self._leave(slot)
        slot.state = STOPPING
        self.decisions.append(Stop(slot.id, reason))

    # -- how many containers
    def _balance(self, pool: Pool, now: float) -> None:
        self._scale_up(pool, now)
        if not self.paused:
            self._scale_down(pool, now)

    def _scale_up(self, pool: Pool, now: float) -> None:
        missing = pool.desired() - pool.ready - pool.starting
        if missing > 0 and not self.paused and now >= pool.starts_after:
            self._starts.want(pool, now)
        else:
            self._starts.forget(pool)
        if pool.queue and pool.has_short_inputs():
            self._agenda.add(pool, now + STALL_SECONDS)

    def start(self, pool: Pool, worker_id: str, now: float) -> None:
        """Decide to start one container (called by `Starts`)."""
        slot = self._add_slot(self._new_container_id(), pool, worker_id, now)
        self.decisions.append(Start(slot.id, pool.function_id, worker_id, slot.taken.devices))

    def lack(self, pool: Pool, now: float) -> str:
        """See `lack_of`."""
        return lack_of(
            pool, now, self.capacity, lambda: self.loans.holders(self.slots.values(), bool(pool.rules.request.gpus))
        )

    def longest_idle(self) -> dict[str, Slot]:
        """Idle containers of all functions (for `Starts`, which may reorder them)."""
        return self._idle

    def some_slots(self, count: int) -> list[Slot]:
        """Some containers, others each time (for `Starts`)."""
        found = list(itertools.islice(self.slots.values(), count))
        for slot in found:
            del self.slots[slot.id]
            self.slots[slot.id] = slot
        return found

    def evict(self, slot: Slot, now: float) -> None:
        """End a container as soon as it has nothing to do: another function needs its room."""
        if slot.inputs:
            self._retire(slot)
            self._scale_up(slot.pool, now)
        else:
            self._stop(slot, "another function needs the room")

    def refuse(self, pool: Pool, reason: str) -> None:
        """No machine can hold the function's containers: what waits for them will never run."""
        waiting = pool.queue.take(len(pool.queue))
        pool.batch_due = 0.0
        if waiting:
            self.decisions.append(Refuse(pool.function_id, waiting, reason))

    # -- a newer version takes over
    def put_candidate(self, candidate_id: str, function_id: str, rules: Rules, count: int, now: float) -> None:
        """Warm up `count` containers of a function's next version, beside those of the present one.

        `promote` makes them the function's own; `remove_function` gives the candidate up.
        """
        base = self.pools[function_id]
        rules = replace(rules, min_containers=count, max_containers=count, buffer_containers=0)
        self.put_function(candidate_id, base.app_id, rules, now)
        self.pools[candidate_id].replaces = base

    def promote(self, candidate_id: str, function_id: str, rules: Rules, now: float) -> None:
        """The candidate's containers take over; the function's older ones finish what they have, and end."""
        pool, candidate = self.pools[function_id], self.pools.pop(candidate_id)
        self._starts.forget(candidate)
        old = list(pool.slots.values())
        for slot in candidate.slots.values():
            slot.pool = pool
            pool.slots[slot.id] = slot
        pool.idle.update(candidate.idle)
        pool.starting += candidate.starting
        pool.ready += candidate.ready
        self._set_rules(pool, rules, now)
        pool.retired = False
        pool.average = None  # the newer version may be faster or slower
        for slot in old:
            if slot.state != STOPPING:
                self._retire(slot) if slot.inputs else self._stop(slot, "replaced by a newer version")
        self._trim(pool)  # the limit may have become lower while the candidate warmed up
        self._feed(pool, now)
        for slot in pool.idle.values():
            self._agenda.add(pool, slot.idle_since + pool.window())
        self._balance(pool, now)

    def _scale_down(self, pool: Pool, now: float) -> None:
        """End idle containers whose window is over, and note when the next one's will be."""
        rules = pool.rules
        if not pool.idle:
            return
        if pool.queue:  # a batch that is not full, or a pause
            self._agenda.add(pool, now + max(pool.window(), 1.0))
            return
        least = 0 if pool.retired else rules.min_containers
        kept = rules.buffer_containers if pool.is_active(now) and not pool.retired else 0
        for slot in list(pool.idle.values()):  # the least recently used first
            if pool.ready <= least or len(pool.idle) <= kept:
                break
            at = slot.idle_since + pool.window()
            if at > now:
                self._agenda.add(pool, at)
                return
            self._stop(slot, "replaced by a newer version" if pool.retired else "idle")
        if kept and pool.ready > least and not pool.assigned:
            self._agenda.add(pool, pool.active_until + rules.scaledown_window)

    def _forget_if_empty(self, pool: Pool) -> None:
        if pool.retired and not pool.slots and not pool.queue and not pool.backlog:
            if self.pools.get(pool.function_id) is pool:
                del self.pools[pool.function_id]
            self._starts.forget(pool)
