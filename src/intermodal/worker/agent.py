"""The worker: registers with the server, and does what it asks for on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

from intermodal.boots import Boots, keep_touched
from intermodal.home import Home
from intermodal.spares import Spares
from intermodal.worker import entrypoint
from intermodal.worker.buckets import Buckets
from intermodal.worker.build_steps import BuildSteps
from intermodal.worker.cell import Cell
from intermodal.worker.containers import leftovers
from intermodal.worker.containers.containers import Containers
from intermodal.worker.containers.launch import ContainersError, Launch
from intermodal.worker.containers.running import Running
from intermodal.worker.containers.runtimes import NO_CONTAINERS
from intermodal.worker.devices.inventory import Inventory
from intermodal.worker.disk_guard import guard
from intermodal.worker.handover import Handover, connect_port
from intermodal.worker.images.failures import BuildFailed
from intermodal.worker.images.images import Images
from intermodal.worker.launcher import Launcher
from intermodal.worker.volumes import Volumes
from modal._protocol import aio
from modal._protocol.errors import Code, Fault, WireError
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.message import from_json
from modal._protocol.messages.file import FileEntry
from modal._protocol.messages.image import BuildLog, mounts_of
from modal._protocol.messages.volume import WorkerVolumeSync
from modal._protocol.messages.web import LOCAL, ContainerConnect, LocalPorts
from modal._protocol.messages.wire import Done, Hello
from modal._protocol.messages.worker import (
    ContainerAdopt,
    ContainerKill,
    ContainerLogs,
    ContainerMarks,
    ContainerSignalInput,
    ContainerSpec,
    ContainerStart,
    ContainerValues,
    LogsAck,
    MountEntries,
    MountGet,
    OutputsAck,
    WorkerImageBuild,
    WorkerImageBuilt,
    WorkerRegister,
    WorkerRegistered,
    WorkerStats,
    WorkerStop,
)

log = logging.getLogger("intermodal.worker")

EXPRESS_SECONDS = 2.0  # how long a container may take to tell what it has by the express way
RECONNECT_SECONDS = 0.2  # pause between attempts to reach the server
ALONE_SECONDS = 900.0  # how long a worker keeps its containers without a server
STATS_SECONDS = 10.0
ADOPT_SECONDS = 10.0  # how long adopted containers' runners may take to come back


class Agent:
    """One worker process."""

    def __init__(self, home: Home, server: str, credentials: Hello) -> None:
        self.home = home
        self.server = server
        self.worker_id = _worker_id(home)
        self._credentials = credentials
        self._credentials.worker_id = self.worker_id
        self._make_parts()
        self.cells: dict[str, Cell] = {}
        self._connection: aio.Connection | None = None
        self._registered = False  # the server knows our containers
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._keep = False
        self._handlers = self._make_handlers()

    def _make_parts(self) -> None:
        self.containers = Containers(self.home)
        self.boots = Boots(self.home.worker_boot)
        self.images = Images(self.home, self.containers)
        self.devices = Inventory()
        self.buckets = Buckets(self.home)
        self.handover = Handover(self.home)
        self._spares = Spares()
        self.containers.local_ports.take = self._hand_local
        self.volumes = Volumes(self.home, lambda: self._connection)
        self.build_steps = BuildSteps(
            self.home, self.containers, self.devices, self.volumes, self.buckets, self.server, self._credentials,
            lambda: self._connection,
        )  # fmt: skip
        self.images.workshop.lends = self.build_steps
        self.launcher = Launcher(self.containers, self.images, self.devices, self.volumes, self.buckets)

    async def _close_parts(self) -> None:
        await self.images.close()
        await self.volumes.close()

    async def _open_parts(self) -> None:
        await self.containers.open()  # first: threads that begin before it stay outside its mount namespace
        await asyncio.to_thread(self.devices.open)
        await asyncio.to_thread(self.boots.begin)
        await self.images.open(self.boots.suspect)
        await asyncio.to_thread(self.volumes.open, self.boots.suspect)
        await asyncio.to_thread(self.boots.mended)
        self._spawn(asyncio.to_thread(leftovers.sweep))  # of others: nothing here waits for it

    # -- life
    async def run(self) -> None:
        """Until the server says stop, or stays away for too long."""
        await self._open_parts()
        self.home.values.mkdir(parents=True, exist_ok=True)
        await self._adopt()
        self._spawn(self._report_stats())
        self._spawn(keep_touched(self.boots))
        self._spawn(guard(self.home.containers, lambda: [cell for cell in self.cells.values() if cell.running]))
        self._spawn(self.volumes.keep_committed(self._activity, self._tell))
        alone_since = time.monotonic()
        while not self._stopping.is_set():
            try:
                await self._serve_once()
                alone_since = time.monotonic()
            except (WireError, Fault) as error:
                log.info("the server cannot be reached: %s", error)
            if time.monotonic() - alone_since > ALONE_SECONDS:
                log.warning("no server for %d s: ending all containers", ALONE_SECONDS)
                break
            await _wait(self._stopping, RECONNECT_SECONDS)
        await self._end()

    def stop(self, keep_containers: bool = False) -> None:
        """End soon."""
        self._keep = keep_containers
        self._stopping.set()
        if self._connection is not None:
            self._connection.close()

    async def _end(self) -> None:
        if self._keep:
            for cell in self.cells.values():
                cell.abandon()
        else:
            for cell in list(self.cells.values()):
                cell.released.set()
                if cell.running is not None:
                    await cell.running.kill()
            waiting = [task for task in self._tasks if task.get_name().startswith("ta-")]
            if waiting:
                await asyncio.wait(waiting, timeout=10)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close_parts()
        await self.containers.close(keep_containers=self._keep)

    async def _serve_once(self) -> None:
        """One connection to the server, from its beginning to its end."""
        connection = await aio.connect(self.server, self._credentials, self._handlers)
        self._connection = connection
        ended = asyncio.get_running_loop().create_future()
        connection.on_close.append(lambda _error: None if ended.done() else ended.set_result(None))
        try:
            await self._hear_express()
            await self._register(connection)
            self._registered = True
            await ended
        finally:
            self._connection = None
            self._registered = False
            connection.close()
            for cell in list(self.cells.values()):
                cell.detach()
                if cell.running is None and cell.exit is None:
                    cell.forsake()

    async def _hear_express(self) -> None:
        """After a loss: what containers have by the express way, which the server must be told."""
        hearing = [asyncio.ensure_future(cell.express_told.wait()) for cell in self.cells.values()]
        if hearing:
            _told, late = await asyncio.wait(hearing, timeout=EXPRESS_SECONDS)
            for one in late:
                one.cancel()

    async def _register(self, connection: aio.Connection) -> None:
        cells = [cell for cell in self.cells.values() if not cell.forsaken]
        message = WorkerRegister(
            self.worker_id,
            socket.gethostname(),
            float(os.cpu_count() or 1),
            _memory_mib(),
            [gpu.describe() for gpu in self.devices.gpus],
            [self.containers.runtime],
            [cell.report() for cell in cells],
            os.getpid(),
        )
        answer = await connection.request(message, WorkerRegistered)
        lost = set(answer.lost)
        await self._set_local_ports(answer.local_ports)
        log.info("registered as %s with %d containers; %d are disowned", self.worker_id, len(cells), len(lost))
        for cell in cells:
            if cell.container_id in lost:
                cell.stop_reason = "disowned by the server"
                cell.released.set()
                if cell.running is not None:
                    await cell.running.kill()
            elif cell.container_id in self.cells:
                cell.attach(connection.open(ContainerAdopt(cell.container_id, cell.outputs_sent)))

    # -- what the server asks for
    def _make_handlers(self) -> aio.Handlers:
        handlers = aio.Handlers()
        handlers.stream(ContainerStart)(self._start)
        handlers.unary(ContainerKill)(self._kill)
        handlers.stream(WorkerImageBuild)(self._build)
        handlers.unary(ContainerConnect)(self._connect)
        handlers.unary(ContainerValues)(self._move_values)
        handlers.unary(LocalPorts)(self._take_local_ports)
        handlers.unary(WorkerStop)(self._stop)
        handlers.unary(WorkerVolumeSync)(self._sync_volume)
        handlers.note(OutputsAck)(self._acknowledged)
        handlers.note(LogsAck)(self._logs_acknowledged)
        handlers.note(ContainerSignalInput)(self._cancel_inputs)
        return handlers

    async def _start(self, connection: aio.Connection, message: ContainerStart, stream: aio.Stream) -> None:
        spec = message.spec
        cell = Cell(
            spec.container_id, spec.app_id, spec.function_id,
            self.home.containers / spec.container_id, self.home.values,
            self._emit_logs, self.handover.send, self._spares,
        )  # fmt: skip
        cell.spec = spec
        cell.marks["worker asked"] = time.time()
        self.cells[spec.container_id] = cell
        cell.attach(stream)
        for frame in stream.take_queued():
            cell.from_server(frame)
        task = self._spawn(self._run_cell(cell, spec))
        task.set_name(spec.container_id)
        await stream.wait_ended()
        await asyncio.shield(asyncio.wait([task]))

    async def _run_cell(self, cell: Cell, spec: ContainerSpec) -> None:
        """One container from its start to its end."""
        try:
            try:
                launch = await self._launch(cell, spec)
                if cell.stop_reason:
                    raise ContainersError(f"it was stopped before it started: {cell.stop_reason}")
                running = await self.containers.start(launch)
            except (ContainersError, BuildFailed, OSError, Fault, WireError) as error:
                log.warning("%s did not start: %s", spec.container_id, error)
                await self.volumes.finish(spec.container_id)
                await self.buckets.release(spec.container_id)
                await cell.close()
                cell.not_started(str(error))
                await cell.released.wait()
                return
            cell.marks["container started"] = time.time()
            cell.marks.update({f"  {name}": at for name, at in _absolute(running.marks, cell.marks).items()})
            self._send_marks(cell)
            await self._follow(cell, running, fresh=True)
        finally:
            self.cells.pop(spec.container_id, None)

    async def _follow(self, cell: Cell, running: Running, fresh: bool = False) -> None:
        cell.started(running)
        if fresh and cell.stop_reason:  # nothing of it has begun
            await running.kill()
        words = list(cell.spec.image.entrypoint) if cell.spec is not None else []
        watching = self._spawn(entrypoint.watch(cell, running, words)) if words else None
        exit = await running.wait()
        if watching is not None:
            watching.cancel()
            exit = entrypoint.explained(cell, exit, words)
        for problem in await self.volumes.finish(cell.container_id):
            self._tell(cell.container_id, problem)
        await self.buckets.release(cell.container_id)
        await cell.finish(exit)
        cell.running = None
        await cell.close()
        await running.close()
        await cell.released.wait()

    async def _launch(self, cell: Cell, spec: ContainerSpec) -> Launch:
        if not self.containers.works(spec.runtime):
            raise ContainersError(NO_CONTAINERS)
        cell.directory.mkdir(parents=True, exist_ok=True)
        await cell.listen(self.server, self._credentials, partial(_restriction, cell), lambda: self._registered)
        cell.remember()
        await self.images.prepare(spec.image)
        layers = list(self.images.layer_paths(spec.image))
        layers.extend([await self._mount(mount_id) for mount_id in spec.mount_ids])
        return await self.launcher.launch(cell, spec, layers)

    async def _mount(self, mount_id: str) -> Path:
        if self.images.has_mount(mount_id):
            return await self.images.mount(mount_id, [])
        connection = self._connection
        if connection is None:
            raise Fault(Code.INTERNAL, "the server is away")
        answer = await connection.request(MountGet(mount_id), MountEntries)
        entries = [from_json(FileEntry, entry) for entry in answer.entries]
        return await self.images.mount(mount_id, entries)

    async def _kill(self, connection: aio.Connection, message: ContainerKill) -> Done:
        cell = self.cells.get(message.container_id)
        if cell is not None:
            cell.stop_reason = message.reason or "stopped"
            if message.grace > 0:
                if cell.ask_to_end(message.grace) and cell.running is not None:
                    self._spawn(self._kill_late(cell, cell.running))
            elif cell.running is not None:
                await cell.running.kill()
        return Done()

    async def _sync_volume(self, connection: aio.Connection, message: WorkerVolumeSync) -> Done:
        if message.action == "prepare":
            await self.volumes.prepare(message.volume_id)
            return Done()
        if self.build_steps.runs(message.container_id):
            await self.build_steps.sync(message.container_id, message.volume_id, message.action)
            return Done()
        cell = self.cells.get(message.container_id)
        if cell is None or cell.running is None or not cell.running.pid:
            raise Fault(Code.EXECUTION, f"container {message.container_id} does not run any more")
        if message.action == "commit":
            await self.volumes.commit(message.container_id, message.volume_id)
        elif message.action == "reload":
            await self.volumes.reload(message.container_id, message.volume_id, cell.running.pid)
        else:
            raise Fault(Code.INVALID, f"a volume cannot be asked to {message.action[:40]!r}")
        return Done()

    def _activity(self) -> dict[str, tuple[bool, int]]:
        return {cell.container_id: cell.activity() for cell in self.cells.values()}

    def _tell(self, container_id: str, text: str) -> None:
        """A line of ours in a container's logs."""
        cell = self.cells.get(container_id)
        if cell is not None:
            cell.say(text)

    async def _kill_late(self, cell: Cell, running: Running) -> None:
        exit_task = asyncio.ensure_future(running.wait())
        done, _ = await asyncio.wait([exit_task], timeout=max(0.0, cell.ends_at - time.monotonic()))
        if not done:
            exit_task.cancel()
            await running.kill()

    async def _connect(self, connection: aio.Connection, message: ContainerConnect) -> Done:
        cell = self.cells.get(message.container_id)
        if cell is None or cell.running is None:
            raise Fault(Code.NOT_FOUND, f"container {message.container_id} does not run here")
        try:
            sock = await connect_port(cell.running, message.port)
        except (OSError, TimeoutError) as error:
            raise Fault(
                Code.INTERNAL, f"port {message.port} of {message.container_id} cannot be reached: {error}"
            ) from None
        with sock:
            self.handover.send(message.container_id, sock.fileno(), message.ticket)
        return Done()

    async def _take_local_ports(self, connection: aio.Connection, message: LocalPorts) -> Done:
        await self._set_local_ports(message.ports)
        return Done()

    async def _set_local_ports(self, ports: list[int]) -> None:
        # Those of a server elsewhere are not this machine's.
        await self.containers.local_ports.set(ports if self.handover.is_here else ())

    def _hand_local(self, container_id: str, port: int, accepted: socket.socket) -> None:
        self.handover.send(container_id, accepted.fileno(), f"{LOCAL}{port}")

    async def _move_values(self, connection: aio.Connection, message: ContainerValues) -> Done:
        cell = self.cells.get(message.container_id)
        if cell is None:
            raise Fault(Code.NOT_FOUND, f"container {message.container_id} does not run here")
        await cell.move_values(message.written, message.wanted)
        return Done()

    async def _stop(self, connection: aio.Connection, message: WorkerStop) -> Done:
        if not message.keep_containers:
            await self._commit_last()
        asyncio.get_running_loop().call_later(0.01, self.stop, message.keep_containers)
        return Done()

    async def _commit_last(self) -> None:
        """End the containers that have volumes while the server still listens: their last changes are to reach it."""
        ending = [cell for cell in self.cells.values() if cell.running and self.volumes.has(cell.container_id)]
        for cell in ending:
            cell.stop_reason = cell.stop_reason or "the worker is stopped"
        await asyncio.gather(*(cell.running.kill() for cell in ending if cell.running is not None))
        await asyncio.gather(*(self.volumes.finish(cell.container_id) for cell in ending))
        await self.volumes.settled()

    async def _build(self, connection: aio.Connection, message: WorkerImageBuild, stream: aio.Stream) -> None:
        if not self.containers.works():
            raise Fault(Code.REMOTE, NO_CONTAINERS)
        began = time.monotonic()
        await self._fetch_mounts(message.recipe)
        cached = self.images.config(message.image_id) is not None

        def tell(entry: BuildLog) -> None:
            stream.send_now(entry)

        try:
            config = await self.images.build(
                message.image_id, message.recipe, message.secrets, tell, message.ignore_cache, message.environment
            )
        except BuildFailed as error:
            raise Fault(Code.REMOTE, str(error)) from None
        except ContainersError as error:
            raise Fault(Code.REMOTE, f"the image could not be built: {error}") from None
        await stream.send(WorkerImageBuilt(message.image_id, config, cached, time.monotonic() - began))

    async def _fetch_mounts(self, recipe: list[dict[str, Any]]) -> None:
        for mount_id in mounts_of(recipe):
            await self._mount(mount_id)

    def _acknowledged(self, connection: aio.Connection, message: OutputsAck) -> None:
        for container_id, count in zip(message.container_ids, message.counts, strict=False):
            cell = self.cells.get(container_id)
            if cell is not None:
                cell.acknowledged(count)

    def _logs_acknowledged(self, connection: aio.Connection, message: LogsAck) -> None:
        for container_id, count in zip(message.container_ids, message.counts, strict=False):
            cell = self.cells.get(container_id)
            if cell is not None:
                cell.logs_acknowledged(count)

    def _cancel_inputs(self, connection: aio.Connection, message: ContainerSignalInput) -> None:
        cell = self.cells.get(message.container_id)
        if cell is not None:
            cell.cancel(message.tokens)

    # -- adoption
    async def _adopt(self) -> None:
        """Take over the containers of an earlier worker process."""
        waiting = []
        adopted = await self.containers.adopt()
        self.volumes.disown({running.container_id for running in adopted})
        await self.buckets.sweep({running.container_id for running in adopted})
        for running in adopted:
            cell = self.recalled(running.container_id)
            if cell is None:
                await running.kill()
                await running.close()
                continue
            await cell.listen(self.server, self._credentials, partial(_restriction, cell), lambda: self._registered)
            self.cells[cell.container_id] = cell
            await self.volumes.restore(cell.container_id, running.pid)
            self._spawn(self._run_adopted(cell, running)).set_name(cell.container_id)
            if cell.ends_at:
                self._spawn(self._kill_late(cell, running))
            waiting.append(asyncio.ensure_future(cell.resumed.wait()))
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=ADOPT_SECONDS)
            for task in late:
                task.cancel()
        for cell in list(self.cells.values()):
            if not cell.resumed.is_set():
                log.warning("%s: its runner did not come back", cell.container_id)
                cell.forsake()
                if cell.running is not None:
                    await cell.running.kill()
        if not self.cells:
            self.images.nothing_runs()
        log.info("adopted %d containers", len(self.cells))

    def recalled(self, container_id: str) -> Cell | None:
        """A container as a worker has written it down; None where it has not."""
        directory = self.home.containers / container_id
        try:
            note = json.loads((directory / "cell.json").read_text())
        except (OSError, ValueError):
            return None
        cell = Cell(
            container_id, note["app_id"], note["function_id"], directory, self.home.values,
            self._emit_logs, self.handover.send, self._spares,
        )  # fmt: skip
        cell.recall(note)
        return cell

    async def _run_adopted(self, cell: Cell, running: Running) -> None:
        try:
            await self._follow(cell, running)
        finally:
            self.cells.pop(cell.container_id, None)

    # -- notes to the server
    def _emit_logs(self, cell: Cell, message: ContainerLogs) -> None:
        if self._connection is not None:
            self._connection.note(message)
            if self._connection.paused:
                cell.logs.hold(self._connection)

    def _send_marks(self, cell: Cell) -> None:
        if self._connection is not None:
            self._connection.note(ContainerMarks(cell.container_id, cell.marks))

    async def _report_stats(self) -> None:
        while True:
            await asyncio.sleep(STATS_SECONDS)
            running = [cell for cell in self.cells.values() if cell.running is not None]
            usage = {cell.container_id: [float(part) for part in cell.running.usage()] for cell in running}  # type: ignore[union-attr]
            if self._connection is not None:
                self._connection.note(WorkerStats(int(sum(part[1] for part in usage.values())), usage))
            for cell in running:
                # Not what the clock says: this process, or the machine, may have stood still.
                cell.liveness.passed(STATS_SECONDS, usage[cell.container_id][0])
                verdict = cell.liveness.verdict(cell.ready)
                if verdict:
                    self._spawn(cell.end_stuck(verdict))

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a task of the worker failed", exc_info=task.exception())


def _restriction(cell: Cell) -> Fault | None:
    if not cell.restricted:
        return None
    return Fault(
        Code.AUTH,
        "this operation is not permitted: the function's access to Modal is restricted (restrict_modal_access=True)",
    )


def _absolute(marks: dict[str, float], around: dict[str, float]) -> dict[str, float]:
    """The runtime's own marks (ms since its start) as instants."""
    end = around["container started"]
    total = max(marks.values(), default=0.0)
    return {name: end - (total - at) / 1000 for name, at in marks.items()}


def _worker_id(home: Home) -> str:
    """This machine's name among the workers of its server: the same after every restart."""
    path = home.path / "worker.id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        import secrets
        import string

        alphabet = string.ascii_letters + string.digits
        worker_id = "wo-" + "".join(secrets.choice(alphabet) for _ in range(22))
        path.write_text(worker_id)
        return worker_id


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass


def hello() -> Hello:
    """How a worker greets."""
    return Hello("worker", VERSION_MIN, VERSION_MAX, python=platform.python_version())
