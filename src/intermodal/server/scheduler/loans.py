"""Containers that wait for calls of their own lend what they have reserved of the processors.

Else calls that call others (a fan-out within a fan-out, a recursion) would fill the machine with containers that wait
for containers for which there is no room. A container takes back what it has lent as soon as it has something to
do, whether or not somebody uses it then: for a while more is reserved than there is. Memory and devices are not lent,
for a container that waits has its own all the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from intermodal.server.scheduler.agenda import NEVER
from intermodal.server.scheduler.capacity import Capacity
from intermodal.server.scheduler.pool import READY, Slot

LEND_AFTER = 0.02  # seconds that a container must have waited: calls that are answered at once change nothing


class Loans:
    """Which containers wait, and which of them have lent."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._waiting: dict[str, Slot] = {}  # they wait and have not lent; who has waited for longest is first

    def waits(self, slot: Slot, item: Any, now: float) -> None:
        """This input of the container waits for a call more."""
        if item in slot.inputs:
            slot.waiting[item] = slot.waiting.get(item, 0) + 1
            self.look(slot, now)

    def goes_on(self, slot: Slot, item: Any, now: float) -> None:
        """A call of this input is over."""
        calls = slot.waiting.get(item, 0)
        if calls > 1:
            slot.waiting[item] = calls - 1
        elif calls:
            del slot.waiting[item]
            self.look(slot, now)

    def left(self, slot: Slot, items: list[Any], now: float) -> None:
        """These inputs are in the container no more."""
        if slot.waiting:
            for item in items:
                slot.waiting.pop(item, None)
            self.look(slot, now)

    def look(self, slot: Slot, now: float) -> None:
        """What the container runs, or what that waits for, has changed."""
        rules = slot.pool.rules
        running = 1 if rules.batch_size else min(len(slot.inputs), rules.limit)
        if slot.waiting and len(slot.waiting) >= running:
            if not slot.lent and slot.id not in self._waiting:
                slot.waits_since = now
                self._waiting[slot.id] = slot
            return
        self._waiting.pop(slot.id, None)
        if slot.lent:
            slot.lent = False
            self._capacity.take_back(slot.worker_id, slot.taken)

    def forget(self, slot: Slot) -> None:
        """The container has ended."""
        slot.waiting.clear()
        self._waiting.pop(slot.id, None)
        if slot.lent:
            slot.lent = False
            self._capacity.take_back(slot.worker_id, slot.taken)

    def holders(self, slots: Iterable[Slot], gpus: bool) -> str:
        """What containers that wait for calls of their own keep from others all the same, for people; "" for nothing.

        Where nothing else runs, what lacks it will wait for ever: they may be waiting for that very call.
        """
        busy = [slot for slot in slots if slot.inputs or slot.state != READY]
        waiting = [slot for slot in busy if slot.waiting and (slot.taken.devices or not gpus)]
        if not waiting:
            return ""
        memory = sum(slot.taken.memory for slot in waiting)
        what = f"{sum(len(slot.taken.devices) for slot in waiting)} of them" if gpus else f"{memory} MiB"
        text = f"{what} held by {len(waiting)} that wait for calls of their own"
        if len(waiting) < len(busy):
            return text
        less = "fewer GPUs" if gpus else "less memory"
        return f"{text}. No other container runs, so this will not change: ask for {less}, or make fewer calls in calls"

    def lend(self, now: float) -> float:
        """Somebody needs room: have those lend that have waited for a while. When the next one will have."""
        for slot in list(self._waiting.values()):
            due = slot.waits_since + LEND_AFTER
            if due > now:
                return due
            del self._waiting[slot.id]
            slot.lent = True
            self._capacity.lend(slot.worker_id, slot.taken)
        return NEVER
