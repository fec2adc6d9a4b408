"""Changes of queues on their way to the store: all that one turn of the event loop decides is one job for the writer.

That items arrived need not be on the disk at once: it goes with the next job, or after CONFIRM_DELAY. A server that
dies in between hands these items out again, unless their client confirms them once more.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from intermodal.server.store import queues as sql
from intermodal.server.store.queues import QueueStore, Ranges
from modal._protocol.errors import Fault

CONFIRM_DELAY = 0.005  # seconds
RETRY_DELAY = 1.0  # seconds after a failure, say a full disk
_log = logging.getLogger(__name__)

Work = Callable[[sqlite3.Connection], Any]
Done = Callable[[Any, "Exception | None"], None]
Confirmed = tuple[int, Ranges, bytes, bool, Callable[[], None]]  # partition, ranges, token, old, what to call then


class Writes:
    def __init__(self, store: QueueStore) -> None:
        self._store = store
        self._loop = asyncio.get_event_loop()
        self._jobs: list[tuple[Work, Done]] = []
        self._confirmed: list[Confirmed] = []
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Work, done: Done) -> None:
        """`work` runs in a transaction, in the order of the calls; `done(result, error)` once it is durable."""
        self._jobs.append((work, done))
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    async def run(self, work: Work) -> Any:
        """As `add`; the result."""
        waiter: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            if not waiter.done():
                if error is None:
                    waiter.set_result(result)
                else:
                    waiter.set_exception(error)

        self.add(work, done)
        return await waiter

    def confirm(self, partition: int, ranges: Ranges, token: bytes, old: bool, then: Callable[[], None]) -> None:
        """These items have arrived; `old`: some were put before the server began."""
        self._confirmed.append((partition, ranges, token, old, then))
        self._flush_later(CONFIRM_DELAY)

    def flush(self) -> None:
        """Send everything to the writer."""
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        jobs, self._jobs = self._jobs, []
        confirmed, self._confirmed = self._confirmed, []
        if not (jobs or confirmed):
            return

        def work(connection: sqlite3.Connection) -> list[Any]:
            for partition, ranges, token, old, _then in confirmed:
                sql.confirm(connection, partition, ranges, token, old)
            return [job(connection) for job, _done in jobs]

        def done(results: list[Any] | None, error: Exception | None) -> None:
            if error is not None:
                self._confirmed += confirmed
                self._flush_later(RETRY_DELAY)
            else:
                for _partition, _ranges, _token, _old, then in confirmed:
                    then()
            for index, (_job, told) in enumerate(jobs):
                try:
                    told(None if results is None else results[index], error)
                except Exception:  # one request's defect is not the others' loss
                    _log.exception("a change of a queue could not be answered")

        try:
            self._store.write_soon(work, done)
        except Fault as fault:  # the server is stopping
            for _job, told in jobs:
                told(None, fault)

    def _flush_later(self, seconds: float) -> None:
        if self._timer is None and not self._due:
            self._timer = self._loop.call_later(seconds, self.flush)
