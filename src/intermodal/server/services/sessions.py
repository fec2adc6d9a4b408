"""Which ephemeral apps have a client that holds them, and when those without one end.

An app whose client is gone for SESSION_GRACE seconds stops; a detached one goes on without a client
until none of its inputs waits or runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modal._protocol.messages.app import SESSION_GRACE

IDLE_CHECK = 2.0  # seconds between looks at detached apps that nobody holds


class Sessions:
    """`gone(app_id, reason)` is called when an app shall stop."""

    def __init__(
        self, idle: Callable[[str], bool], gone: Callable[[str, str], None], grace: float = SESSION_GRACE
    ) -> None:
        self._idle = idle
        self._gone = gone
        self._grace = grace
        self._holders: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._detached: dict[str, bool] = {}  # -> was idle when last looked at
        self._checking: asyncio.TimerHandle | None = None

    def watch(self, app_id: str, detached: bool = False) -> None:
        """An ephemeral app exists; nobody holds it yet."""
        if detached:
            self._detached[app_id] = False
            self._check_later()
        else:
            self._start_grace(app_id)

    def hold(self, app_id: str) -> None:
        """A client attached to it."""
        self._holders[app_id] = self._holders.get(app_id, 0) + 1
        self._stop_timer(app_id)

    def release(self, app_id: str) -> None:
        """That client is gone."""
        left = self._holders.get(app_id, 0) - 1
        if left > 0:
            self._holders[app_id] = left
            return
        if self._holders.pop(app_id, None) is None:
            return
        if app_id in self._detached:
            self._check_later()
        else:
            self._start_grace(app_id)

    def detach(self, app_id: str) -> None:
        """It goes on without a client until its inputs are done."""
        self._stop_timer(app_id)
        self._detached[app_id] = False
        self._check_later()

    def forget(self, app_id: str) -> None:
        """It has ended, or was deployed."""
        self._stop_timer(app_id)
        self._holders.pop(app_id, None)
        self._detached.pop(app_id, None)

    def close(self) -> None:
        """The server ends: no app is stopped for it."""
        for app_id in list(self._timers):
            self._stop_timer(app_id)
        self._detached.clear()
        if self._checking is not None:
            self._checking.cancel()

    def _start_grace(self, app_id: str) -> None:
        self._stop_timer(app_id)
        self._timers[app_id] = asyncio.get_running_loop().call_later(self._grace, self._expired, app_id)

    def _stop_timer(self, app_id: str) -> None:
        timer = self._timers.pop(app_id, None)
        if timer is not None:
            timer.cancel()

    def _expired(self, app_id: str) -> None:
        self._timers.pop(app_id, None)
        self._gone(app_id, f"its client was away for more than {self._grace:.0f} seconds")

    def _check_later(self) -> None:
        if self._checking is None:
            self._checking = asyncio.get_running_loop().call_later(IDLE_CHECK, self._check)

    def _check(self) -> None:
        self._checking = None
        free = [app_id for app_id in self._detached if app_id not in self._holders]
        for app_id in free:
            idle = self._idle(app_id)
            # Idle twice: between two calls of a program that has just been left there is a moment without any.
            if idle and self._detached[app_id]:
                del self._detached[app_id]
                self._gone(app_id, "all its inputs are done")
            else:
                self._detached[app_id] = idle
        if any(app_id not in self._holders for app_id in self._detached):
            self._check_later()
