"""All containers of one worker."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from intermodal.home import Home
from intermodal.worker.containers import leftovers, names, probe, protected_binary, runtimes, seccomp_filter, sweep
from intermodal.worker.containers.cgroups import Cgroup, CgroupTree
from intermodal.worker.containers.disks import Disks
from intermodal.worker.containers.launch import NETWORKS, ContainersError, Launch, StartFailed, StartInterrupted
from intermodal.worker.containers.overlay import Overlay, remove_tree
from intermodal.worker.containers.pid_files import PidFiles
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.preparation import Prepared, prepare, undo
from intermodal.worker.containers.private_mounts import delegated, enter_private_mounts, in_user_namespace
from intermodal.worker.containers.running import Running, remove_directory
from intermodal.worker.containers.slots import Slot, SlotPool, discard_slot, make_slot
from intermodal.worker.containers.state import State
from intermodal.worker.network.bridge import Bridge, NetworkError
from intermodal.worker.network.firewall import FirewallError
from intermodal.worker.network.local_ports import Listeners, LocalPorts, listen_within

T = TypeVar("T")

log = logging.getLogger(__name__)

POOL = 3  # slots made ahead; each is a waiting shell (0.7 MB) with its namespace
START_WITHIN = 60.0  # seconds that a runtime has to bring a container up
START_PAUSES = (0.1, 0.5, 2.0)  # seconds before it is tried again, where what brought it up was ended from outside


class Containers:
    """Starts containers, and finds again those of an earlier worker. One for each worker process."""

    def __init__(self, home: Home, runtime: str = "") -> None:
        self.home = home
        self.wanted = runtime or os.environ.get("INTERMODAL_RUNTIME", "")
        self.problems: list[str] = []  # what does not hold here, in words for the operator
        self.running: dict[str, Running] = {}
        cores = len(os.sched_getaffinity(0))
        self._gate = asyncio.Semaphore(max(2, cores * 2))
        self._executor = ThreadPoolExecutor(max(4, cores), "containers")
        self._removers = ThreadPoolExecutor(2, "removers")
        self.local_ports = LocalPorts(self._executor)
        self._slot_makers = ThreadPoolExecutor(2, "slots")
        self.disks = Disks(home.path / "disks")
        self._tree = CgroupTree(names.cgroup_name(home.path))  # as far as can be said before `open`
        self._record = leftovers.Record(home.path)
        self._bridge: Bridge | None = None
        self._network_problem = ""
        self._found: list[sweep.Found] = []
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[Running]] = set()
        self._closed = False
        self._unwanted: set[asyncio.Task[None]] = set()
        self._all_runtimes: dict[str, runtimes.Runtime] = {}
        self._runtime: runtimes.Runtime | None = None
        self._possible: dict[str, str] = {}
        self._pools: dict[bool, SlotPool] = {}  # by whether they are connected to the bridge
        self._pid_files: PidFiles | None = None
        self._user_namespace = False
        self._binary = home.path / "crun-binary"  # where crun is mounted read-only

    @property
    def runtime(self) -> str:
        """The runtime in use; open() chooses it."""
        return self._runtime.name if self._runtime else ""

    @property
    def limits(self) -> list[str]:
        """What control groups limit here, of cpu, memory and pids."""
        return self._tree.enforced

    def works(self, runtime: str = "") -> bool:
        """Whether this runtime ("": the best one here) can start containers."""
        try:
            return self._runtime_for(runtime).works
        except ContainersError:
            return True  # the start says what is wrong with it

    # Opening

    async def open(self) -> None:
        """Choose a runtime, prepare network and control groups, remove what a dead worker left half made.

        Raises ContainersError when this machine cannot run containers as asked.
        """
        # In this thread: those of the executors begin in its mount namespace.
        mounts_problem = enter_private_mounts()
        self._user_namespace = in_user_namespace()
        self._pid_files = PidFiles()
        await self._do(self._open, mounts_problem)
        bridged = self._bridge is not None
        if self._bridge is not None and self._bridge.local_names is not None:
            self._bridge.local_names.start()
        self._pools = {
            connected: SlotPool(
                functools.partial(make_slot, self._tree, self._bridge if connected else None, self.disks),
                functools.partial(discard_slot, bridge=self._bridge if connected else None),
                POOL if connected == bridged else 0,
                self._slot_makers,
            )
            for connected in (False, True)
        }
        self._pools[bridged].fill()

    def _open(self, mounts_problem: str) -> None:
        self.home.containers.mkdir(parents=True, exist_ok=True)
        state_root = self.home.path / "crun"
        state_root.mkdir(mode=0o700, exist_ok=True)
        self._possible = probe.runtimes(self.home.containers, mounts_problem)
        self._runtime = runtimes.choose(self.wanted, self._possible, state_root, self._user_namespace)
        self._protect(self._runtime)
        self._all_runtimes = {self._runtime.name: self._runtime}
        if not self._runtime.works:
            self._warn_of_none()
        notes = self.home.path / "control-groups"
        self._tree = CgroupTree(names.cgroup_name(self.home.path), None, delegated(), notes)
        self._record.open()  # before anything is there that it tells of
        self._tree.open()
        if self._tree.problem:
            self.problems.append(self._tree.problem)
            log.warning("%s", self._tree.problem)
        seccomp_filter.compiled()
        if self._runtime.works:
            self.disks.open()
            if self.disks.problem:
                self.problems.append(self.disks.problem)
                log.warning("%s", self.disks.problem)
        self._open_bridge()
        adoptable, rubbish = sweep.find(self.home.containers)
        sweep.remove(rubbish, {found.state.slot for found in adoptable}, self._tree)
        for found in adoptable:
            if found.state.address and self._bridge is not None:
                self._bridge.reserve(found.state.address)
        self._found = adoptable

    def _protect(self, runtime: runtimes.Runtime) -> None:
        if isinstance(runtime, runtimes.OciRuntime) and runtime.name == "crun":
            runtime.binary = protected_binary.protect(runtime.binary, self._binary)

    def _warn_of_none(self) -> None:
        reasons = "; ".join(f"{name}: {why}" for name, why in self._possible.items() if why)
        text = f"NO CONTAINERS: {runtimes.NO_CONTAINERS}" + (f" ({reasons})" if reasons else "")
        self.problems.append(text)
        log.warning("%s", text)
        print(f"WARNING: {text}", file=sys.stderr, flush=True)  # noqa: T201 - it must be seen

    def _open_bridge(self) -> None:
        assert self._runtime is not None
        if not self._runtime.works:
            return
        if self._user_namespace or os.geteuid() != 0:
            self.problems.append("without root, containers share this machine's network")
            log.warning("%s", self.problems[-1])
            return
        bridge = Bridge(self.home.path)
        try:
            bridge.host_ports = _host_ports()
            bridge.open()
        except (NetworkError, FirewallError, OSError) as error:
            if bridge.local_names is not None:
                bridge.local_names.close()
            bridge.close(remove=False)
            self._network_problem = f"no network for containers: {error}"
            self.problems.append(self._network_problem)
            log.warning("%s", self._network_problem)
            return
        self._bridge = bridge

    def _runtime_for(self, name: str) -> runtimes.Runtime:
        assert self._runtime is not None
        if not name:
            return self._runtime
        if name not in self._all_runtimes:
            chosen = runtimes.choose(name, self._possible, self.home.path / "crun", self._user_namespace)
            if not chosen.works:
                self._warn_of_none()
            self._protect(chosen)
            self._all_runtimes[name] = chosen
        return self._all_runtimes[name]

    async def _do(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    # Starting

    async def start(self, launch: Launch) -> Running:
        """Start a container; it runs when this returns. Raises StartFailed. Cancelled, it leaves nothing."""
        began = time.perf_counter()
        runtime = self._check(launch)
        self._starting.add(launch.container_id)
        # In a task of its own: a cancelled caller must not leave half a container.
        task = asyncio.get_running_loop().create_task(self._start_in_turn(launch, runtime, began))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            closing = asyncio.get_running_loop().create_task(self._close_unwanted(task))
            self._unwanted.add(closing)
            closing.add_done_callback(self._unwanted.discard)
            raise

    async def _start_in_turn(self, launch: Launch, runtime: runtimes.Runtime, began: float) -> Running:
        try:
            return await self._start_patiently(launch, runtime, began)
        finally:
            self._starting.discard(launch.container_id)
            if not self._starting:
                self._pools[self._bridge is not None].fill()

    async def _start_patiently(self, launch: Launch, runtime: runtimes.Runtime, began: float) -> Running:
        """Again and again, where what was to bring it up was ended from outside."""
        for pause in (*START_PAUSES, None):
            try:
                async with self._gate:
                    return await self._start(launch, runtime, began)
            except StartInterrupted as error:
                if pause is None or self._closed:
                    left = Places(launch.directory, launch.upper)
                    await self._do(remove_directory, left, launch.upper is not None)
                    raise StartFailed(
                        f"{error}, {len(START_PAUSES) + 1} times in a row: find out what ends processes on this "
                        "machine (where memory ran out, `dmesg` says so)"
                    ) from error
                log.warning("%s: %s; it is tried again in %g s", launch.container_id, error, pause)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _close_unwanted(self, starting: asyncio.Task[Running]) -> None:
        try:
            await (await starting).close()
        except StartFailed as error:
            log.info("a start that nobody waits for failed: %s", error)

    def _check(self, launch: Launch) -> runtimes.Runtime:
        if self._closed:
            raise StartFailed("the worker is ending")
        if launch.container_id in self.running or launch.container_id in self._starting:
            raise StartFailed(f"container {launch.container_id} is there already")
        if launch.network not in NETWORKS:
            raise StartFailed(f"there is no network {launch.network!r}; choose one of {', '.join(NETWORKS)}")
        if not launch.argv:
            raise StartFailed("a container needs a command")
        try:
            runtime = self._runtime_for(launch.runtime)
        except StartFailed:
            raise
        except ContainersError as error:
            raise StartFailed(str(error)) from error
        if not runtime.works:
            raise StartFailed(runtimes.NO_CONTAINERS)
        if not launch.layers:
            raise StartFailed("a container needs at least one layer")
        if launch.network == "bridge" and self._network_problem:
            raise StartFailed(self._network_problem)
        return runtime

    async def _start(self, launch: Launch, runtime: runtimes.Runtime, began: float) -> Running:
        assert self._pid_files is not None
        marks: dict[str, float] = {}

        def mark(name: str) -> None:
            marks[name] = round((time.perf_counter() - began) * 1000, 3)

        mark("turn")
        connected = launch.network == "bridge" and self._bridge is not None
        slot = await self._take_slot(connected)
        mark("slot")
        try:
            prepared, listeners = await self._do(self._prepare, launch, runtime, slot, connected, mark)
        except BaseException as error:
            await self._do(undo, launch, slot, self._bridge if connected else None)
            if isinstance(error, OSError):
                raise StartFailed(f"container {launch.container_id} could not be prepared: {error}") from error
            raise
        running = self._new_running(prepared.state, prepared.places, slot.cgroup, runtime, overlay=prepared.overlay)
        running.marks = marks
        written = self._pid_files.written(prepared.watch)
        try:
            if connected:
                await self.local_ports.add(launch.container_id, slot.monitor.pid, listeners)
            running.open_output()
            slot.run(running.directory)
            running.watch()
            await self._await_pid(running, written)
        except BaseException as error:
            slot.release()
            if isinstance(error, BrokenPipeError):
                error = StartInterrupted("the container's monitor ended before it was to bring it up")
            await running.close(keep_directory=isinstance(error, StartInterrupted))
            if isinstance(error, StartInterrupted):
                raise error from None
            if isinstance(error, OSError):
                raise StartFailed(f"container {launch.container_id} could not be started: {error}") from error
            raise
        finally:
            self._pid_files.forget(prepared.watch)
        mark(runtime.name)
        return running

    def _prepare(
        self, launch: Launch, runtime: runtimes.Runtime, slot: Slot, connected: bool, mark: Callable[[str], None]
    ) -> tuple[Prepared, Listeners]:
        assert self._pid_files is not None
        prepared = prepare(launch, runtime, slot, self._bridge, self._pid_files, self._user_namespace, self.disks, mark)
        listeners = listen_within(slot.monitor.pid, self.local_ports.ports) if connected else {}
        mark("local ports")
        return prepared, listeners

    def _new_running(
        self,
        state: State,
        places: Places,
        cgroup: Cgroup,
        runtime: runtimes.Runtime,
        overlay: Overlay | None = None,
        adopted: bool = False,
    ) -> Running:
        running = Running(
            state,
            places,
            cgroup,
            runtime,
            self._executor,
            self._removers,
            overlay=overlay,
            keep_upper=bool(state.upper),
            adopted=adopted,
            on_close=self._forget,
        )
        self.running[state.container_id] = running
        return running

    def _forget(self, running: Running) -> None:
        self.running.pop(running.container_id, None)
        self.local_ports.forget(running.container_id)
        if running.address and self._bridge is not None:
            self._bridge.release(running.address)

    async def _take_slot(self, connected: bool) -> Slot:
        try:
            return await self._pools[connected].take()
        except (OSError, NetworkError) as error:
            raise StartFailed(f"no place for a container could be prepared: {error}") from error

    async def _await_pid(self, running: Running, written: asyncio.Future[None]) -> None:
        """Until the container is there. Raises StartFailed with what the runtime said."""
        ending = asyncio.get_running_loop().create_task(running.ended())
        try:
            await asyncio.wait([written, ending], timeout=START_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
        exit, runtime = running.exit, running.state.runtime
        if not running.places.began():
            if exit is None and written.done():
                raise StartInterrupted(f"{runtime} was ended while it wrote the container's pid file")
            if exit is None:
                raise StartFailed(f"{runtime} did not start within {START_WITHIN:.0f} s")
            kind = StartInterrupted if exit.reason == "interrupted" else StartFailed
            raise kind(exit.detail or f"{runtime} failed")
        running.attach(int(running.places.pid.read_text()))
        if exit is not None and exit.reason == "start-failed":
            raise StartFailed(exit.detail)

    # Adopting and closing

    async def adopt(self) -> list[Running]:
        """Containers of an earlier worker: those that run, and those that ended while none looked. Once."""
        adopted = []
        for found in self._found:
            runtime = self._runtime_for_adopted(found.state.runtime)
            cgroup = self._tree.find(found.state.slot)
            running = self._new_running(found.state, found.places, cgroup, runtime, adopted=True)
            running.open_output()
            running.watch()
            if found.pid:
                running.attach(found.pid)
                if running.address and self._bridge is not None:
                    await self.local_ports.add(running.container_id, found.state.monitor.pid, {})
            adopted.append(running)
        self._found = []
        return adopted

    def _runtime_for_adopted(self, name: str) -> runtimes.Runtime:
        """The runtime it was started with; the present one where that is gone, which only matters for its records."""
        try:
            return self._runtime_for(name)
        except ContainersError:
            return self._runtime_for("")

    async def close(self, keep_containers: bool = False) -> None:
        """Remove everything: containers, control groups, network. With `keep_containers` they run on for the next
        worker, and what they need stays."""
        self._closed = True
        if not keep_containers:
            await self.adopt()
        await asyncio.gather(*self._tasks, *self._unwanted, return_exceptions=True)
        for running in list(self.running.values()):
            if keep_containers and running.state.outlives_worker:
                running.abandon()
                self.local_ports.forget(running.container_id)
        doomed = [
            running for running in self.running.values() if not keep_containers or not running.state.outlives_worker
        ]
        await asyncio.gather(*(running.close() for running in doomed))
        for pool in self._pools.values():
            await pool.close()
        if self._bridge is not None and self._bridge.local_names is not None:
            self._bridge.local_names.close()
        await self._do(self._close, keep_containers)
        if self._pid_files is not None:
            self._pid_files.close()
            self._pid_files = None
        self._executor.shutdown()
        self._removers.shutdown()
        self._slot_makers.shutdown()

    def _close(self, keep_containers: bool) -> None:
        if self._bridge is not None:
            self._bridge.close(remove=not keep_containers)
        if not keep_containers:
            self._tree.close()
            remove_tree(self.home.path / "crun")
        self.disks.close(remove=not keep_containers)
        protected_binary.release(self._binary, remove=not keep_containers)
        self._record.close(remove=not keep_containers)


async def sweep_home(home: Home) -> None:
    """Remove every container and everything else that workers of this home left on the machine."""
    containers = Containers(home)
    await containers.open()
    await containers.close()


def _host_ports() -> tuple[int, ...]:
    """`INTERMODAL_HOST_PORTS`: TCP ports of this machine that containers may reach at host.intermodal.internal."""
    text = os.environ.get("INTERMODAL_HOST_PORTS", "")
    words = text.replace(",", " ").split()
    if not all(word.isdigit() and 0 < int(word) < 65536 for word in words):
        raise NetworkError(f"INTERMODAL_HOST_PORTS={text!r} is not a list of port numbers, such as 8000,8001")
    return tuple(int(word) for word in words)
