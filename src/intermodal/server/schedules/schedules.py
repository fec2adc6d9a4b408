"""Starts scheduled functions when they are due. What is due next is on disk: a restart misses nothing, once."""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import Awaitable, Callable, Iterable

from intermodal.server.ids import call_id_of
from intermodal.server.schedules.recurrence import NEVER, check, next_time
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.schedules import ScheduleRow, ScheduleStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.function import FunctionSpec

log = logging.getLogger("intermodal.schedules")

NO_ARGUMENTS = pickle.dumps(((), {}), 4)
LONGEST_SLEEP = 60.0  # seconds: the machine's clock may be set meanwhile
RETRY_SECONDS = 1.0  # until what could not be stored (a full disk) is tried again
CLOCK_SLACK = 60.0  # seconds that the clock may go back without times being counted anew
BACKLOG = 100  # runs of a function that may wait; more are left out

# Function id, arguments, call id; False: that call was there already.
Start = Callable[[str, bytes, str], Awaitable[bool]]
Pending = Callable[[str], int]  # spawned inputs of a function without a result


class Schedules:
    """`await open()`; `run()` until it is cancelled."""

    def __init__(self, store: ScheduleStore, start: Start, pending: Pending) -> None:
        self._store = store
        self._start = start
        self._pending = pending
        self._rows: dict[str, ScheduleRow] = {}  # by function id
        self._changed = asyncio.Event()
        self._offset = _offset()

    async def open(self) -> None:
        self._rows = {row.function_id: row for row in await self._store.all()}
        await self._count_anew()

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
            offset, before = _offset(), self._offset
            self._offset = offset
            if offset < before - CLOCK_SLACK:
                await self._count_anew()
            now = time.time()
            failed = False
            for row in [row for row in self._rows.values() if row.due <= now]:
                failed |= not await self._fire(row, now)
            due = min((row.due for row in self._rows.values()), default=NEVER)
            self._changed.clear()
            wait = max(RETRY_SECONDS if failed else 0.0, min(due - time.time(), LONGEST_SLEEP))
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue

    async def _fire(self, row: ScheduleRow, now: float) -> bool:
        """Start it once, also where several times have passed while no server ran; False: try again soon.

        The call's id is made of the time that is due, so that a server which dies before the next time is on the disk
        does not start it again in its next life.
        """
        after = row._replace(due=next_time(row.spec, row.base, now))
        if self._pending(row.function_id) >= BACKLOG:
            log.warning("%s is due, but %d of its runs wait: this one is left out", row.function_id, BACKLOG)
        else:
            try:
                call_id = call_id_of("schedule", row.function_id, row.base, row.due)
                if not await self._start(row.function_id, NO_ARGUMENTS, call_id):
                    # It ran in an earlier life: later times are still to be made up for.
                    after = row._replace(due=next_time(row.spec, row.base, row.due))
            except Exception as error:
                gone = isinstance(error, Fault) and error.code == Code.NOT_FOUND
                again = "" if gone else "; it will be tried again"
                log.warning("the scheduled %s could not be started: %s%s", row.function_id, error, again)
                if not gone:
                    return False
        if self._rows.get(row.function_id) == row:
            await self._keep(after)
        return True

    async def _keep(self, row: ScheduleRow) -> None:
        self._rows[row.function_id] = row
        try:
            await self._store.due(row)
        except Exception as error:  # the next one is stored with the next run; the id keeps this one from a second
            log.warning("when %s is due next could not be stored: %s", row.function_id, error)

    async def _count_anew(self) -> None:
        """The clock was ahead, and has been set: what is due when that time comes again is due earlier.

        Times of a cron expression that have run are known by their calls' ids, and do not run again; a period begins
        anew.
        """
        now = time.time()
        for row in list(self._rows.values()):
            if next_time(row.spec, row.base, now + CLOCK_SLACK) >= row.due and row.base <= now + CLOCK_SLACK:
                continue
            base = row.base if "cron" in row.spec else now
            log.warning("the clock has gone back: %s is due at another time", row.function_id)
            await self._keep(row._replace(base=base, due=next_time(row.spec, base, now)))


def _offset() -> float:
    """What changes when the clock is set."""
    return time.time() - time.monotonic()
