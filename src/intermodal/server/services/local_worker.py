"""Keeps this machine's worker running: starts it, and starts it again when it ends.

The worker is a process of its own that outlives the server; a server that starts while it lives
adopts it. Who the worker is, is known by the lock that it holds and by the process at the other end
of its connection, never by a name. A worker that keeps failing is started ever more rarely, and the
status says so.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import subprocess
import sys
import time
from typing import Any

from intermodal import logfile
from intermodal.home import Home
from intermodal.processes import ProcessId, started_at

FIRST_PAUSE = 0.5  # seconds before the first restart
LONGEST_PAUSE = 30.0  # seconds
STEADY_SECONDS = 60.0  # a worker that ran so long has not failed at the start
LOCKED_CHECK = 3.0  # seconds between looks at a worker that lives but has not connected
EXIT_BUSY = 75  # the worker's exit code when another one serves the directory
_log = logging.getLogger(__name__)


class LocalWorker:
    def __init__(self, home: Home) -> None:
        self.state = "none"  # starting, running, waiting (to be started again), stopped
        self.failures = 0  # ends in a row soon after the start
        self.last_exit = ""
        self.process: ProcessId | None = None
        self._home = home
        self._task: asyncio.Task[None] | None = None
        self._early: subprocess.Popen[bytes] | None = None
        self._connected = asyncio.Event()
        self._stopping = False
        self._gone = asyncio.Event()

    def there(self) -> bool:
        """Whether a worker from before lives."""
        return self._locked()

    def begin(self) -> None:
        """Start the worker's process ahead of `start`: it takes as long to come up as the server."""
        self._early = self._spawn()

    def abandon(self) -> None:
        """The server does not start after all."""
        if self._early is not None:
            self._early.terminate()
            self._early.wait()

    def start(self) -> None:
        """Have a worker from now on."""
        if self.state != "running":  # it may have said hello already
            self.state = "starting"
        self._task = asyncio.create_task(self._keep())

    def connected(self, pid: int) -> None:
        """A worker has said hello from a process of this machine."""
        started = started_at(pid)
        if started is not None:
            self.process = ProcessId(pid, started)
            self.state = "running"
            self._connected.set()

    def expect_end(self) -> None:
        """The worker is about to be asked to end: start none again."""
        self._stopping = True

    async def stopped(self, seconds: float) -> bool:
        """Wait for the worker that was asked to end; whether it did in time."""
        self._stopping = True
        if self._task is None:
            return True
        if self.process is None or not self.process.lives:
            self._task.cancel()
            return True
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """The server ends; the worker goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def describe(self) -> dict[str, Any]:
        """For the status."""
        return {
            "state": self.state,
            "pid": self.process.pid if self.process is not None and self.process.lives else 0,
            "failures": self.failures,
            "last_exit": self.last_exit,
        }

    async def _keep(self) -> None:
        while not self._stopping:
            began = time.monotonic()
            if self._early is None and self._locked():
                code = await self._adopted()
            else:
                code = await self._run()
            self.process = None
            self._gone.set()
            if self._ended_as_asked():
                break
            self._gone.clear()
            if code == EXIT_BUSY:
                continue  # another one was quicker: it is adopted next
            if time.monotonic() - began > STEADY_SECONDS:
                self.failures = 0
            self.failures += 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self.failures - 1))
            self.last_exit = _words(code)
            self.state = "waiting"
            _log.warning(
                "the worker ended (%s); it is started again in %.1f s. Its log: %s",
                self.last_exit, pause, self._home.worker_log,
            )  # fmt: skip
            await asyncio.sleep(pause)
        self.state = "stopped"

    async def _run(self) -> int | None:
        """Start a worker (unless `begin` has) and wait for its end; its exit code."""
        child, self._early = self._early or self._spawn(), None
        if child is None or self.process is None or self.process.pid != child.pid:  # else it has said hello already
            self.state = "starting"
        if child is None:
            return None
        started = started_at(child.pid)
        if started is not None:
            self.process = ProcessId(child.pid, started)
            await _wait_end(self.process)
        return child.wait()

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        log = logfile.open_log(self._home.worker_log)
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "intermodal.worker"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "INTERMODAL_HOME": str(self._home.path)},
            )
        except OSError as error:
            _log.error("the worker cannot be started: %s", error)
            return None
        finally:
            os.close(log)

    async def _adopted(self) -> int | None:
        """A worker from before lives: wait until it has ended."""
        while self._locked():
            self._connected.clear()
            if self.process is None or not self.process.lives:
                self.state = "starting"
                try:
                    await asyncio.wait_for(self._connected.wait(), LOCKED_CHECK)
                except TimeoutError:
                    continue
            assert self.process is not None
            await _wait_end(self.process)
            self.process = None
        return None

    def _ended_as_asked(self) -> bool:
        return self._stopping

    def _locked(self) -> bool:
        """Whether a worker holds the lock of this directory."""
        try:
            descriptor = os.open(self._home.worker_lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as others who only look
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


async def _wait_end(process: ProcessId) -> None:
    """Wait for the end of a process that is no child of ours."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    try:
        if not process.lives:
            return
        loop.add_reader(descriptor, over.set)
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _words(code: int | None) -> str:
    if code is None:
        return "it could not be watched"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
