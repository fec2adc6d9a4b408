"""What people should know of an app's functions: which of them wait, and for what, and which are crash-looping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from intermodal.server.scheduler.pool import STARTING

if TYPE_CHECKING:
    from intermodal.server.dispatch import Dispatch
    from intermodal.server.live import Function

LONG_START = 30.0  # seconds after which people are told that a container is still starting


class Notices:
    """Of the functions that `dispatch` has."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def of_app(self, app_id: str) -> list[str]:
        """A sentence each, in words that do not change while nothing else does."""
        functions = list(self._dispatch.of_app.get(app_id, {}).values())
        candidates = self._dispatch.handovers.candidates.values()
        functions += [one for one in candidates if one.app_id == app_id]
        now = time.monotonic()
        found: list[str] = []
        for function in functions:
            wait = self._dispatch.scheduler.lack(function.pool, now) or self._start(function, now)
            if wait:
                found.append(f"{function.name} waits for {wait}")
            trouble = function.crashes.describe(function.name, self._dispatch.handovers.is_candidate(function))
            if trouble:
                found.append(trouble)
        return found

    def _start(self, function: Function, now: float) -> str:
        pool = function.pool
        if not (pool.starting and (pool.queue or pool.backlog)):
            return ""
        if any(slot.state == STARTING and slot.started_at + LONG_START < now for slot in pool.slots.values()):
            return f"a container that has been starting for more than {LONG_START:.0f} seconds (imports, @enter hooks)"
        return ""
