"""Containers that hold more inputs than they run: what waits behind a long one goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from intermodal.server.scheduler.agenda import NEVER
from intermodal.server.scheduler.decisions import Recall
from intermodal.server.scheduler.pool import Slot

RECALL_AFTER = 0.05  # seconds an input may run before those behind it are given to other containers


class Overfull:
    """`due` is when `recalls` must be asked next."""

    def __init__(self) -> None:
        self.due = NEVER
        self._slots: dict[str, Slot] = {}

    def add(self, slot: Slot) -> None:
        """It holds more than it runs."""
        if slot.id not in self._slots:
            self._slots[slot.id] = slot
            self.due = min(self.due, slot.checked_at + RECALL_AFTER)

    def drop(self, slot: Slot) -> None:
        """It does not, or is to end."""
        self._slots.pop(slot.id, None)

    def recalls(self, now: float) -> Iterator[Recall]:
        """What containers shall give back whose oldest input has run for too long."""
        self.due = NEVER
        for slot in list(self._slots.values()):
            at = slot.checked_at + RECALL_AFTER
            limit = slot.pool.rules.limit
            if len(slot.inputs) <= limit:
                del self._slots[slot.id]
            elif at <= now:
                del self._slots[slot.id]
                slot.pool.open.pop(slot.id, None)
                slot.pool.learn(now - slot.checked_at)
                yield Recall(slot.id, list(slot.inputs)[limit:])
            else:
                self.due = min(self.due, at)
