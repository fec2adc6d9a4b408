"""One SQLite database: one writer thread with group commit, readers on connections of their own.

`await database.write(work)` runs `work(connection)` inside a transaction and returns once that is
on the disk (WAL, synchronous=FULL). There is no commit window: the writer takes everything that is
queued, commits it together, and takes what came meanwhile. A job that raises is undone alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from intermodal.server.store.migrations import FOLDER, Refused, known, migrate
from modal._protocol.errors import Code, Fault

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Done = Callable[[Any, Exception | None], None]

BATCH_JOBS = 1024  # jobs in one transaction, at most
READERS = 2  # threads
WAL_PAGES = 4096  # written before they move into the database: 16 MiB
WAL_SIZE = WAL_PAGES * (4096 + 24) + 32  # bytes of a log with so many pages
QUIET = 0.5  # seconds without work after which the log's file is made as long as it will be
_log = logging.getLogger(__name__)


class Job:
    """A piece of work for the writer and who hears of its end (on the event loop)."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Work[Any], done: Done) -> None:
        self.work = work
        self.done = done
        self.result: Any = None
        self.error: Exception | None = None


def _nobody_waits(_result: Any, _error: Exception | None) -> None:
    """For what may be lost."""


class Database:
    """Open it with `Database.open` on the event loop that will use it."""

    def __init__(
        self, path: Path, writer: sqlite3.Connection, loop: asyncio.AbstractEventLoop, prepares: bool = True
    ) -> None:
        self.path = path
        self.commits = 0  # transactions so far
        self._loop = loop
        self._writer = writer
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._closing = False
        self._lengthened = not prepares
        self._reading = threading.local()
        self._reader_connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(cls, path: Path, schema: Path = FOLDER, prepares: bool = True) -> Database:
        """Open and migrate. Raises Refused with what to do when the file is not ours, newer or damaged.

        `schema`: the folder of its migrations; `prepares`: its log's file is made long in advance.
        """
        return cls(path, connect_writer(path, schema), asyncio.get_running_loop(), prepares)

    # -- writing
    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; returns its result once it is durable. Raises what `work` raised, or Fault."""
        waiter: asyncio.Future[T] = self._loop.create_future()

        def done(result: Any, error: Exception | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(result)
            else:
                waiter.set_exception(error)

        self.write_soon(work, done)
        return await waiter

    async def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> int:
        """One statement, durable; the number of rows that it changed."""
        return await self.write(lambda connection: connection.execute(sql, parameters).rowcount)

    def write_soon(self, work: Work[Any], done: Done = _nobody_waits) -> None:
        """As `write` without a task: `done(result, error)` is called on the event loop; no result with an error."""
        if self._closing:
            raise Fault(Code.INTERNAL, "the server is stopping")
        self._queue.put(Job(work, done))

    # -- reading
    async def read(self, work: Work[T]) -> T:
        """Run `work` on a connection that sees all that is committed. Raises what `work` raised, or Fault."""
        if self._closing:
            raise Fault(Code.INTERNAL, "the server is stopping")
        return await self._loop.run_in_executor(self._readers, self._read, work)

    async def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """All rows of one query."""
        return await self.read(lambda connection: connection.execute(sql, parameters).fetchall())

    async def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        """The first row of one query, or None."""
        return await self.read(lambda connection: connection.execute(sql, parameters).fetchone())

    def _read(self, work: Work[T]) -> T:
        connection = getattr(self._reading, "connection", None)
        try:
            if connection is None:
                connection = connect_reader(self.path)
                self._reading.connection = connection
                self._reader_connections.append(connection)
            return work(connection)
        except sqlite3.Error as error:
            raise explained(error, self.path) from error

    # -- ending
    async def close(self) -> None:
        """Commit what is queued, then close. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)
        await self._loop.run_in_executor(None, self._readers.shutdown)
        for connection in self._reader_connections:
            connection.close()
        await asyncio.sleep(0)  # let the last outcomes be delivered

    # -- the writer's thread
    def _run(self) -> None:
        open_ = True
        while open_:
            first = self._next()
            jobs: list[Job] = []
            try:
                while first is not None:
                    jobs.append(first)
                    if len(jobs) >= BATCH_JOBS:
                        break
                    first = self._queue.get_nowait()
                else:
                    open_ = False
            except Empty:
                pass
            if jobs:
                self._commit(jobs)
                try:
                    self._loop.call_soon_threadsafe(_deliver, jobs)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    return
        self._writer.close()

    def _next(self) -> Job | None:
        """The next job; None: there will be no more.

        Once there is time for it, the log's file is made as long as it grows: to write where a file has its blocks
        already takes half the time of making it longer.
        """
        if self._lengthened:
            return self._queue.get()
        try:
            return self._queue.get(timeout=QUIET)
        except Empty:
            self._lengthened = True
        try:
            lengthen(self.path.with_name(self.path.name + "-wal"), WAL_SIZE)
        except OSError as error:  # a full disk, say: it will be slower
            _log.warning("the log of the store could not be given its size: %s", error)
        return self._queue.get()

    def _commit(self, jobs: list[Job]) -> None:
        error = self._transaction(jobs)
        if error is None:
            self.commits += 1
            return
        if len(jobs) == 1:
            jobs[0].error = error
            return
        for job in jobs:  # one of them broke the transaction: let each stand for itself
            job.error = job.result = None
            job.error = self._transaction([job])
            self.commits += 1

    def _transaction(self, jobs: list[Job]) -> Exception | None:
        """Run and commit; the error that undid the whole transaction, None where it stands."""
        connection = self._writer
        alone = len(jobs) == 1
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                if alone:
                    job.result = job.work(connection)
                    continue
                connection.execute("SAVEPOINT job")
                try:
                    job.result = job.work(connection)
                except Exception as error:
                    if not connection.in_transaction:  # SQLite has undone everything (disk full, I/O error)
                        raise
                    job.error = explained(error, self.path)
                    connection.execute("ROLLBACK TO job")
                connection.execute("RELEASE job")
            connection.execute("COMMIT")
        except Exception as error:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as failure:  # the next transaction is refused, and tries this again
                _log.error("%s: what could not be written could not be undone either: %s", self.path, failure)
            return explained(error, self.path)
        return None


def _deliver(jobs: list[Job]) -> None:
    for job in jobs:
        result = job.result if job.error is None else None  # it may have one: of work that could not be committed
        try:
            job.done(result, job.error)
        except Exception:  # one listener's defect is not the others' loss
            _log.exception("a listener of the store failed")


def connect_writer(path: Path, schema: Path = FOLDER) -> sqlite3.Connection:
    """The connection that writes; makes and migrates the database. Raises Refused."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    except (OSError, sqlite3.OperationalError) as error:
        raise Refused(f"{path} cannot be opened ({error}): is the directory there and yours to write?") from None
    try:
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        migrate(connection, path, known(schema))
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise Refused(
                f"{path} is damaged or no database ({error}): restore it from a backup, or move it away to start anew"
            ) from None
        fault = explained(error, path)
        raise Refused(str(fault)) from None
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")
    return connection


def lengthen(path: Path, size: int) -> None:
    """Fill a file up with zeros, which no log's reader takes for pages. Nobody may write to it meanwhile.

    Raises OSError where there is no room: the file is as it was.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        at = before = os.fstat(descriptor).st_size
        try:
            while at < size:
                at += os.pwrite(descriptor, bytes(min(1 << 20, size - at)), at)
            os.fdatasync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)  # others need what is left of the disk more
            raise
    finally:
        os.close(descriptor)


def explained(error: Exception, path: Path) -> Exception:
    """The Fault for what the machine does to us (a full disk, a broken one); any other error as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return Fault(
            Code.EXHAUSTED,
            f"the disk of the server's state directory {path.parent} is full: nothing was changed; "
            "free some space and try again",
        )
    if code == sqlite3.SQLITE_IOERR:
        return Fault(Code.INTERNAL, f"the server cannot write {path} ({error}): look at the disk, then try again")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return Fault(Code.INTERNAL, f"the server may not write {path} ({error}): make its directory writable")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Fault(Code.INTERNAL, f"{path} is damaged ({error}): stop the server and restore it from a backup")
    return error
