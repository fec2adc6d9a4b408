"""One container that runs, or has run: its output, signals, use, end and removal."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.worker.containers import runtimes
from intermodal.worker.containers.cgroups import MEBIBYTE, Cgroup
from intermodal.worker.containers.disks import unmount
from intermodal.worker.containers.launch import Exit
from intermodal.worker.containers.overlay import Overlay, remove_tree
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.processes import kill_below, resources_of
from intermodal.worker.containers.slots import reap
from intermodal.worker.containers.start_faults import other_half_ended
from intermodal.worker.containers.state import State

if TYPE_CHECKING:
    from intermodal.worker.containers.runtimes import Runtime

log = logging.getLogger(__name__)

# Exit codes that a runtime, or the shell that runs it, ends with when the container never began.
START_CODES = (1, 125, 126, 127)
FULL_DISK = MEBIBYTE  # a file system with less than this many bytes left is full


class Running:
    """A container. `pid` is its first process, seen from this machine; 0 once that has ended."""

    def __init__(
        self,
        state: State,
        places: Places,
        cgroup: Cgroup,
        runtime: Runtime,
        executor: Executor,
        removers: Executor,
        *,
        overlay: Overlay | None = None,
        keep_upper: bool = False,
        adopted: bool = False,
        on_close: Callable[[Running], None],
    ) -> None:
        self.state = state
        self.places = places
        self.cgroup = cgroup
        self.adopted = adopted
        self.pid = 0
        self.marks: dict[str, float] = {}  # milliseconds since start() was called
        self.stdout_fd = -1  # non-blocking; at end of file once nobody can write any more
        self.stderr_fd = -1
        self._runtime = runtime
        self._executor = executor
        self._removers = removers  # apart: a large directory takes its time
        self._overlay = overlay
        self._keep_upper = keep_upper
        self._on_close = on_close
        self._pidfd = -1
        self._monitor_fd = -1
        self._killed = False
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def container_id(self) -> str:
        return self.state.container_id

    @property
    def directory(self) -> Path:
        return self.places.directory

    @property
    def address(self) -> str:
        """Where this machine reaches its ports; "" without a network of its own."""
        return self.state.address

    @property
    def exit(self) -> Exit | None:
        """How it ended; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    # Watching

    def open_output(self) -> None:
        """Open the read ends of stdout and stderr."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        self.stdout_fd = os.open(self.places.stdout, flags)
        self.stderr_fd = os.open(self.places.stderr, flags)

    def watch(self) -> None:
        """Begin to wait for the monitor's end."""
        if not self.state.monitor.alive:
            # Either it ended between two workers, or an instant ago as our own unreaped child.
            self._on_monitor_exit()
            return
        try:
            self._monitor_fd = os.pidfd_open(self.state.monitor.pid)
        except ProcessLookupError:
            self._on_monitor_exit()
            return
        asyncio.get_running_loop().add_reader(self._monitor_fd, self._on_monitor_exit)

    def attach(self, pid: int) -> None:
        """The container's first process is known. It may have ended already."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self.pid = pid

    def _on_monitor_exit(self) -> None:
        if self._monitor_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._monitor_fd)
            os.close(self._monitor_fd)
            self._monitor_fd = -1
        self._reading = asyncio.get_running_loop().create_task(self._read_end())

    async def _read_end(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            ended = await loop.run_in_executor(self._executor, self._exit)
        except Exception as error:
            log.exception("the end of %s could not be read", self.container_id)
            ended = Exit(255, reason="killed", detail=f"its end could not be read: {error}")
        self.pid = 0
        if not self._ended.done():
            self._ended.set_result(ended)

    def _exit(self) -> Exit:
        """Blocking: what the monitor and the kernel recorded."""
        reap(self.state.monitor.pid)
        self.cgroup.end()
        try:
            code = int(self.places.exit.read_text())
        except (OSError, ValueError):
            self._kill_pid()
            return self._judge(128 + signal.SIGKILL, "the container's monitor")
        return self._judge(code, self.state.runtime)

    def _judge(self, code: int, ended: str) -> Exit:
        """`ended`: whose end the code tells of, where the container was not there yet."""
        number = code - 128 if 128 < code <= 128 + signal.SIGRTMAX else 0
        began = self.places.began()
        error = runtimes.start_errors(self.places.log) if code in START_CODES or not began else ""
        halved = not began and other_half_ended(error)
        if error and not halved:
            return Exit(code, reason="start-failed", detail=error)
        if (halved or number == signal.SIGKILL) and self.cgroup.out_of_memory():
            return Exit(code, number, "out-of-memory", "the container used more memory than its limit")
        if self._killed:
            return Exit(code, number, "killed", "stopped by the worker")
        if halved:
            return Exit(code, number, "interrupted", "its first process was killed before its program began")
        if number and not began:
            return Exit(code, number, "interrupted", f"{ended} was ended by {_name(number)} while it brought it up")
        if number == signal.SIGKILL:
            return Exit(code, number, "killed", "killed by SIGKILL from outside the container or by its own program")
        if code and self._disk_full():
            what = f"its disk of {self.state.disk} MiB" if self.state.disk else f"the disk of {self.places.directory}"
            return Exit(code, number, "out-of-disk", f"{what} is full")
        return Exit(code, number)

    def _disk_full(self) -> bool:
        try:
            return shutil.disk_usage(self.places.upper).free < FULL_DISK
        except OSError:
            return False

    async def wait(self) -> Exit:
        """Until it has ended. Its last output may still be in the pipes."""
        return await asyncio.shield(self._ended)

    async def ended(self) -> None:
        """Until it has ended."""
        await self.wait()

    # Acting

    def signal(self, signum: int) -> None:
        """Send a signal to the container's first process; one that has ended ignores it."""
        if self._pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signum)
        except ProcessLookupError:
            pass

    async def kill(self) -> None:
        """End every process at once and wait for that."""
        if not self._ended.done():
            self._killed = True
            self._kill_pid()
            self.cgroup.thaw()
            if not self.pid:
                # What is there has no first process of a namespace to end with.
                self.cgroup.kill(spare=(self.state.monitor.pid,))
                kill_below(self.state.monitor)
        await self.wait()

    def _kill_pid(self) -> None:
        self.signal(signal.SIGKILL)

    def usage(self) -> tuple[float, float]:
        """CPU seconds used so far and MiB in memory now."""
        if self.cgroup.directories:
            return self.cgroup.usage()
        return resources_of(self.state.monitor.pid)

    # Removing

    async def close(self, keep_upper: bool = False, keep_directory: bool = False) -> None:
        """Kill it if it runs; remove its mount, control groups and directory. `keep_upper` leaves what it wrote,
        `keep_directory` all that its next start finds there."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(keep_upper, keep_directory))
        await asyncio.shield(self._closing)

    async def _close(self, keep_upper: bool, keep_directory: bool) -> None:
        await self.kill()
        for fd in (self.stdout_fd, self.stderr_fd, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self._pidfd = -1
        try:
            keep = keep_upper or self._keep_upper
            await asyncio.get_running_loop().run_in_executor(self._removers, self._remove, keep, keep_directory)
        finally:
            self._on_close(self)

    def _remove(self, keep_upper: bool, keep_directory: bool) -> None:
        if self._overlay is not None:
            self._overlay.unmount()
        if self.state.disk:
            unmount(self.places.disk)
        self.cgroup.remove()
        self._runtime.remove(self.container_id)
        if not keep_directory:
            remove_directory(self.places, keep_upper)

    def abandon(self) -> None:
        """Let it run on for the next worker: forget it here."""
        if self._monitor_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._monitor_fd)
        for fd in (self.stdout_fd, self.stderr_fd, self._pidfd, self._monitor_fd):
            if fd >= 0:
                os.close(fd)
        self.stdout_fd = self.stderr_fd = self._pidfd = self._monitor_fd = -1


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def remove_directory(places: Places, keep_upper: bool) -> None:
    """Blocking: remove a container's files; its upper directory stays where that is asked."""
    if places.work.parent != places.directory:
        remove_tree(places.work)
    if keep_upper and places.upper.is_relative_to(places.directory):
        for entry in list(places.directory.iterdir()):
            if entry == places.upper:
                continue
            if entry.is_dir() and not entry.is_symlink():
                remove_tree(entry)
            else:
                entry.unlink(missing_ok=True)
        return
    # state.json goes first: what is left without it is rubbish to the next worker, whatever else remains.
    try:
        places.state.unlink()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    remove_tree(places.directory)
