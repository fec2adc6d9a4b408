"""Slots: a shell that waits, already in its control group and network namespace, for a container to run.

The shell is the container's monitor as well: it runs the runtime, waits, and writes the exit code where a later
worker finds it. Its stdin is a pipe from the worker; while it waits, the worker's end ends it. Everything that a slot
holds lives by its processes: a network namespace has no other name, and its interfaces go with it.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import secrets
import signal
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from intermodal.worker.containers.cgroups import Cgroup, CgroupTree
from intermodal.worker.containers.disks import Disks, unmount
from intermodal.worker.containers.processes import Process
from intermodal.worker.network.bridge import Bridge

log = logging.getLogger(__name__)

# $@ are the control groups' entrances. The script uses builtins alone, so nothing but the shell is in the group.
SCRIPT = """\
for f do echo 0 >"$f" || exit 125; done
IFS= read -r d || exit 0
. "$d/command"
echo $? >"$d/exit"
"""
TITLE = "intermodal-container"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
SIGNALS_TO_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass
class Slot:
    """One waiting monitor."""

    name: str
    monitor: Process
    cgroup: Cgroup
    address: str  # in the bridge's subnet; "" without one
    _stdin: int
    disk: Path | None = None  # one of the default size that waits at this place

    def run(self, directory: Path) -> None:
        """Let the monitor run `command` in this directory. Raises OSError when it is gone."""
        try:
            os.write(self._stdin, os.fsencode(directory) + b"\n")
        finally:
            self.release()

    def release(self) -> None:
        """Close the pipe: a monitor that still waits then ends."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1


def make_slot(tree: CgroupTree, bridge: Bridge | None, disks: Disks | None = None) -> Slot:
    """Blocking: a new slot, connected to the bridge where one is given, with a disk of the default size likewise."""
    name = secrets.token_hex(6)
    cgroup = tree.make(name)
    address = ""
    reader, writer = os.pipe()
    try:
        if bridge is not None:
            address = bridge.enter_new_namespace()
        try:
            pid = _spawn(cgroup.entrances, reader)
        finally:
            if bridge is not None:
                bridge.leave_namespace()
    except BaseException:
        os.close(writer)
        cgroup.remove()
        if bridge is not None and address:
            bridge.release(address)
        raise
    finally:
        os.close(reader)
    slot = Slot(name, Process.of(pid) or Process(pid, 0), cgroup, address, writer)
    if disks is not None:
        try:
            slot.disk = disks.make_ahead(name)
        except OSError as error:
            log.warning("no disk could be made ahead: %s", error)  # the start makes its own, and says what is wrong
    return slot


def _spawn(entrances: list[str], reader: int) -> int:
    return os.posix_spawn(
        "/bin/sh",
        [TITLE, "-c", SCRIPT, TITLE, *entrances],
        ENVIRONMENT,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, reader, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_RDWR, 0),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=SIGNALS_TO_RESET,
    )


def reap(pid: int) -> None:
    """Take a child's exit status. A process that is not our child is not ours to reap."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def discard_slot(slot: Slot, bridge: Bridge | None) -> None:
    """Blocking: end a slot that was not used and remove what it held."""
    slot.release()
    discard_disk(slot)
    slot.monitor.kill()
    reap(slot.monitor.pid)
    slot.cgroup.remove()
    if bridge is not None and slot.address:
        bridge.release(slot.address)


def discard_disk(slot: Slot) -> None:
    """Blocking: its disk is not needed."""
    if slot.disk is not None:
        unmount(slot.disk)
        slot.disk.rmdir()
        slot.disk = None


class SlotPool:
    """A few connected slots, made ahead."""

    def __init__(
        self, make: Callable[[], Slot], discard: Callable[[Slot], None], size: int, executor: Executor
    ) -> None:
        self._make = make
        self._discard = discard
        self._size = size
        self._executor = executor
        self._ready: collections.deque[Slot] = collections.deque()
        self._filling: asyncio.Task[None] | None = None
        self._closed = False

    async def take(self) -> Slot:
        """A slot; made now when none is ready."""
        while self._ready:
            slot = self._ready.popleft()
            if slot.monitor.alive:
                return slot
            await self._run_discard(slot)
        making = asyncio.get_running_loop().run_in_executor(self._executor, self._make)
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._put_back)
            raise

    def _put_back(self, made: asyncio.Future[Slot]) -> None:
        """Nobody waits for this slot any more."""
        if not made.cancelled() and made.exception() is None:
            self._ready.append(made.result())

    def fill(self) -> None:
        """Make what is missing, in the background. Call it when nothing is in a hurry."""
        if not self._closed and (self._filling is None or self._filling.done()) and len(self._ready) < self._size:
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        while not self._closed and len(self._ready) < self._size:
            try:
                self._ready.append(await asyncio.get_running_loop().run_in_executor(self._executor, self._make))
            except Exception:
                # The next start makes its own slot, and its caller gets the error.
                log.warning("no slot could be prepared ahead", exc_info=True)
                return

    async def _run_discard(self, slot: Slot) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, self._discard, slot)

    async def close(self) -> None:
        """Remove every slot that waits."""
        self._closed = True
        if self._filling is not None:
            await self._filling
        while self._ready:
            await self._run_discard(self._ready.popleft())
