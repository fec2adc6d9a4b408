"""What a function that cannot go on waits for, in words for people."""

from __future__ import annotations

from collections.abc import Callable

from intermodal.server.scheduler.capacity import Capacity
from intermodal.server.scheduler.pool import Pool

WAITS_AFTER = 1.0  # seconds without room before people are told


def lack_of(pool: Pool, now: float, capacity: Capacity, holders: Callable[[], str]) -> str:
    """What the function has waited for, for a moment at least; "" where it waits for nothing.

    `holders`: who has what it lacks, in words.
    """
    if not (pool.queue or pool.backlog or pool.replaces):
        return ""
    limit = pool.rules.max_containers
    if pool.queue and limit and len(pool.slots) >= limit and all(slot.waiting for slot in pool.slots.values()):
        return f"a container of its own: all {limit} (max_containers) wait for calls that they have made themselves"
    if now - pool.waits_since < WAITS_AFTER:
        return ""
    lack, held = capacity.lack(pool.rules.request), holders()
    return f"{lack}, {held}" if held else lack
