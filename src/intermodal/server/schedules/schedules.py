"""Starts scheduled functions when they are due. What is due next is on disk: a restart misses nothing, once."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Awaitable, Callable, Iterable

from intermodal.server.schedules.recurrence import NEVER, check, next_time
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.schedules import ScheduleRow, ScheduleStore
from modal._protocol.errors import Fault
from modal._protocol.messages.function import FunctionSpec

log = logging.getLogger("intermodal.schedules")

NO_ARGUMENTS = pickle.dumps(((), {}), 4)
LONGEST_SLEEP = 60.0  # seconds: the machine's clock may be set meanwhile
BACKLOG = 100  # runs of a function that may wait; more are left out

Start = Callable[[str, bytes], Awaitable[str]]  # function id, arguments; the call's id
Pending = Callable[[str], int]  # spawned inputs of a function without a result


class Schedules:
    """`await open()`; `run()` until it is cancelled."""

    def __init__(self, store: ScheduleStore, start: Start, pending: Pending) -> None:
        self._store = store
        self._start = start
        self._pending = pending
        self._rows: dict[str, ScheduleRow] = {}  # by function id
        self._changed = asyncio.Event()

    async def open(self) -> None:
        self._rows = {row.function_id: row for row in await self._store.all()}

    @staticmethod
    def check(specs: Iterable[FunctionSpec]) -> None:
        """Fault(invalid) where a function has a schedule that cannot be used."""
        for spec in specs:
            if spec.schedule:
                check(spec.schedule, spec.name)

    async def published(self, app_id: str, rows: Iterable[FunctionRow], live: bool) -> None:
        """The app has these functions from now on. A period begins anew; a cron expression goes on where it is the
        same. Not `live`: schedules of this app do not run."""
        now = time.time()
        wanted: dict[str, ScheduleRow] = {}
        for row in rows:
            schedule = row.spec.schedule
            if not (live and schedule and not row.base_id):
                continue
            before = self._rows.get(row.function_id)
            due = next_time(schedule, now, now)
            if before is not None and before.spec == schedule and "cron" in schedule:
                due = before.due
            wanted[row.function_id] = ScheduleRow(row.function_id, app_id, schedule, now, due)
        await self._replace(app_id, wanted)

    async def stopped(self, app_id: str) -> None:
        """The app runs no longer."""
        await self._replace(app_id, {})

    async def _replace(self, app_id: str, wanted: dict[str, ScheduleRow]) -> None:
        known = [function_id for function_id, row in self._rows.items() if row.app_id == app_id]
        if not known and not wanted:
            return
        await self._store.replace(app_id, list(wanted.values()))
        for function_id in known:
            self._rows.pop(function_id, None)
        self._rows.update(wanted)
        self._changed.set()

    async def run(self) -> None:
        while True:
            now = time.time()
            for row in [row for row in self._rows.values() if row.due <= now]:
                await self._fire(row, now)
            due = min((row.due for row in self._rows.values()), default=NEVER)
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(0.0, min(due - time.time(), LONGEST_SLEEP)))
            except TimeoutError:
                continue

    async def _fire(self, row: ScheduleRow, now: float) -> None:
        """Start it once, also where several times have passed while no server ran."""
        after = row._replace(due=next_time(row.spec, row.base, now))
        if self._pending(row.function_id) >= BACKLOG:
            log.warning("%s is due, but %d of its runs wait: this one is left out", row.function_id, BACKLOG)
        else:
            try:
                await self._start(row.function_id, NO_ARGUMENTS)
            except Fault as fault:
                log.warning("the scheduled %s could not be started: %s", row.function_id, fault)
        if self._rows.get(row.function_id) == row:
            self._rows[row.function_id] = after
            await self._store.due(after)
