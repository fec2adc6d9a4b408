"""Changes that are answered when they are in the journal, and reach the database a little later, many at once.

A *source* (the queues, the dicts) holds in memory what it has changed and the database does not know yet; `collect`
turns that into one job. So what came and went in between never reaches the database. After a crash the operations in
the journal are carried out one by one instead, by the functions in OPERATIONS.
"""

from __future__ import annotations

import asyncio
import logging
import marshal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from intermodal.server.store import journal as journal_file
from intermodal.server.store.database import Database
from intermodal.server.store.journal import MAX_RECORD, SEGMENT, Done, Journal
from intermodal.server.store.migrations import Refused
from modal._protocol.errors import Code, Fault

DELAY = 4.0  # seconds that a change may be in the journal alone: most items of queues are gone by then
MAX_BEHIND = SEGMENT // 2  # bytes of the journal after which it is not waited for so long
RETRY = 1.0  # seconds after a failure, say a full disk
FORMAT = 2  # of marshal: plain values, the same since Python 2.5

_log = logging.getLogger(__name__)

Operation = Callable[..., Any]
Work = Callable[[sqlite3.Connection], Any]
Applied = Callable[[Any], None]  # is told on the event loop what the job returned


class Source(Protocol):
    def collect(self) -> tuple[Work, Applied] | None:
        """All that the database does not know yet, as a job that may be run again when it failed."""


class WriteBehind:
    """`operations`: how each kind of change is carried out on the database, by name."""

    def __init__(self, database: Database, journal: Journal) -> None:
        self.sources: list[Source] = []
        self._database = database
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._bytes = 0  # appended since the last collection
        self._collected = self._applied = journal.last
        self._timer: asyncio.TimerHandle | None = None
        self._under_way = False
        self._wanted = False  # somebody waits for the next collection
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    @classmethod
    async def open(cls, database: Database, folder: Path, store: str, operations: dict[str, Operation]) -> WriteBehind:
        """Bring into the database what only the journal has. Raises Refused."""
        applied = (await database.row("SELECT applied FROM journal"))[0]
        records = await asyncio.to_thread(journal_file.read, folder, store, applied)
        if records:
            await database.write(lambda connection: replay(connection, records, operations))
            _log.info("%d changes of dicts and queues were in the journal alone", len(records))
            applied = records[-1].number
        return cls(database, Journal(folder, store, applied))

    @property
    def durable(self) -> int:
        """Number of the last change that is on the disk."""
        return self._journal.durable

    def after(self, done: Done) -> None:
        """See Journal.after."""
        self._journal.after(done)

    def append(self, name: str, arguments: tuple[Any, ...], done: Done) -> int:
        """Note a change that a source makes in memory now; `done(error)` once that is on the disk. Its number."""
        content = marshal.dumps((name, arguments), FORMAT)
        if len(content) > MAX_RECORD:
            raise Fault(Code.TOO_LARGE, f"one change has at most {MAX_RECORD} bytes, and this one has {len(content)}")
        number = self._journal.append(content, done)
        self._bytes += len(content)
        if self._timer is None and not self._under_way:
            self._timer = self._loop.call_later(DELAY, self._flush)
        if self._bytes > MAX_BEHIND:
            self._loop.call_soon(self._flush)  # not before the change is made
        return number

    async def settle(self) -> None:
        """Return when the database knows all that was changed until now. Raises Fault where it cannot be written."""
        number = self._journal.last
        if self._applied >= number:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((number, waiter))
        if self._collected < number or not self._under_way:
            self._wanted = True
            self._flush()
        await waiter

    async def close(self) -> None:
        """Bring everything into the database, if it takes it; end."""
        settling = asyncio.ensure_future(self.settle())
        done, _ = await asyncio.wait([settling], timeout=2 * RETRY)
        if not done or settling.exception() is not None:  # it stays in the journal
            settling.cancel()
        if self._timer is not None:
            self._timer.cancel()
        await self._journal.close()

    # -- parts
    def _flush(self) -> None:
        if self._under_way:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._under_way = True
        self._wanted = False
        self._bytes = 0
        number = self._collected = self._journal.last
        jobs = [job for source in self.sources if (job := source.collect()) is not None]
        self._write(number, jobs)

    def _write(self, number: int, jobs: list[tuple[Work, Applied]]) -> None:
        def work(connection: sqlite3.Connection) -> list[Any]:
            results = [job(connection) for job, _applied in jobs]
            connection.execute("UPDATE journal SET applied = ?", (number,))
            return results

        def done(results: list[Any] | None, error: Exception | None) -> None:
            if error is not None or results is None:
                _log.warning("changes of dicts and queues stay in the journal: %s", error)
                self._journal.stuck(error or Fault(Code.INTERNAL, "the store does not answer"))
                self._loop.call_later(RETRY, self._write, number, jobs)
                waiters, self._waiters = self._waiters, []
                for _wanted, waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(error or Fault(Code.INTERNAL, "the store does not answer"))
                return
            self._applied = number
            self._journal.release(number)
            for (_job, applied), result in zip(jobs, results, strict=True):
                try:
                    applied(result)
                except Exception:
                    _log.exception("what the store took could not be followed up")
            self._under_way = False
            waiters, self._waiters = self._waiters, []
            for wanted, waiter in waiters:
                if wanted > number:
                    self._waiters.append((wanted, waiter))
                elif not waiter.done():
                    waiter.set_result(None)
            if self._wanted or self._waiters or self._bytes > MAX_BEHIND:
                self._flush()
            elif self._journal.last > number:
                self._timer = self._loop.call_later(DELAY, self._flush)

        try:
            self._database.write_soon(work, done)
        except Fault:  # the server is stopping: the journal has it
            return


def replay(
    connection: sqlite3.Connection, records: list[journal_file.Record], operations: dict[str, Operation]
) -> None:
    """Carry out what the journal says. Raises Refused."""
    for number, _before, content in records:
        try:
            name, arguments = marshal.loads(content)  # noqa: S302 - what this server wrote into its own directory
            operations[name](connection, *arguments)
        except (ValueError, TypeError, EOFError, KeyError) as error:
            raise Refused(
                f"record {number} of the journal cannot be read ({type(error).__name__}: {error}): was it written by a "
                "newer Intermodal? Start that version again, or move journal-0 and journal-1 away, which loses the "
                "last changes of dicts and queues"
            ) from None
    connection.execute("UPDATE journal SET applied = ?", (records[-1].number,))
