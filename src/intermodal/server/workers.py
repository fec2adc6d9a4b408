"""The server's side of its workers: registration, containers' streams, image builds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from intermodal.server.dispatch import KNOWN, STOP_GRACE, Container, Dispatch, Function
from intermodal.server.handover import form_of
from intermodal.server.inputs import Call, Held, run_inputs, split_input_id
from intermodal.server.store.calls import Attempts, attempt_name
from intermodal.server.worker_links import ContainerLink, WorkerLink
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault, WireError
from modal._protocol.frames import Frame
from modal._protocol.message import Message
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.image import BuildLog
from modal._protocol.messages.log import LogEntry
from modal._protocol.messages.volume import WorkerVolumeSync
from modal._protocol.messages.web import LocalPorts
from modal._protocol.messages.wire import Done
from modal._protocol.messages.worker import (
    ContainerAdopt,
    ContainerExited,
    ContainerKill,
    ContainerLogs,
    ContainerMarks,
    ContainerReport,
    ContainerSpec,
    ContainerStart,
    LogsAck,
    OutputsAck,
    RunOutputs,
    WorkerImageBuild,
    WorkerImageBuilt,
    WorkerRegister,
    WorkerRegistered,
    WorkerStats,
    WorkerStop,
)

log = logging.getLogger("intermodal.workers")

ACK_SECONDS = 0.05  # how long outputs may stay unacknowledged
LOG_NUMBERS = 10_000  # containers whose number of log entries is remembered, about
LOST_SECONDS = 20.0  # how long a worker may be away before its containers count as lost
PORTS_SECONDS = 5.0  # how long workers may take to open ports in their containers
BUILD_ATTEMPTS = 3  # of one image, when its worker ends in the middle
RECOVERY_SECONDS = 5.0  # how long a restarted server waits for its workers


class Workers:
    """All workers. `dispatch` says what they shall do."""

    def __init__(
        self,
        dispatch: Dispatch,
        prepare: Callable[[Container], Awaitable[ContainerSpec]],
        append_logs: Callable[[str, list[LogEntry]], None],
        adopt_call: Callable[[str, str, str], Call],
        spawned_inputs: Callable[[list[str]], Awaitable[dict[str, Attempts | None]]],
        adopt_spawned: Callable[[Held], Held],
        last_log_numbers: Callable[[str], dict[str, int]],
    ) -> None:
        self.links: dict[str, WorkerLink] = {}
        self.marks: dict[str, dict[str, float]] = {}  # container id -> timings of its start
        self._dispatch = dispatch
        self._prepare = prepare
        self._append_logs = append_logs
        self._adopt_call = adopt_call
        self._spawned_inputs = spawned_inputs  # input ids -> those of spawned calls: are they without an output?
        self._adopt_spawned = adopt_spawned
        self._local_ports: list[int] = []
        self._last_log_numbers = last_log_numbers  # app id -> container id -> number of the last entry that is kept
        self._log_numbers: dict[str, int] = {}  # container id -> the same, of those that run
        self._unacked_logs: dict[str, dict[str, int]] = {}  # worker id -> container id -> number
        self._unacked: dict[str, dict[str, int]] = {}  # worker id -> container id -> frames taken in
        self._ack_timer: asyncio.TimerHandle | None = None
        self._arrived = asyncio.Event()
        self._registering: dict[str, WorkerLink] = {}  # worker id -> its newest registration, while that is prepared
        self._adopted: dict[str, Container] = {}
        dispatch.start_container = self.start
        dispatch.kill_container = self.kill
        dispatch.durable = self._acknowledge

    def register(self, handlers: Handlers) -> None:
        handlers.unary(WorkerRegister)(self._register)
        handlers.stream(ContainerAdopt)(self._adopt)
        handlers.note(ContainerLogs)(self._logs)
        handlers.note(ContainerMarks)(self._take_marks)
        handlers.note(WorkerStats)(self._take_stats)

    # -- registration
    async def _register(self, connection: Connection, message: WorkerRegister) -> WorkerRegistered:
        link = WorkerLink(connection, message)
        self._registering[link.worker_id] = link
        # What must be read comes first: from here to the end of `_take_reports` nothing else may happen, or inputs
        # that the worker holds would be assigned anew to it.
        spawned = await self._read_for(message)
        if connection.closed or self._registering.get(link.worker_id) is not link:
            raise Fault(Code.INTERNAL, "the worker has registered again meanwhile")
        del self._registering[link.worker_id]
        old = self.links.get(link.worker_id)
        self.links[link.worker_id] = link
        connection.worker_id = link.worker_id  # type: ignore[attr-defined]
        connection.on_close.append(lambda _error: self._lost(link))
        scheduler = self._dispatch.scheduler
        scheduler.capacity.add(link.worker_id, message.cpus, message.memory, link.devices)
        lost = self._take_reports(link, message, spawned)
        if old is not None and not old.connection.closed:
            old.connection.abort()
        log.info(
            "worker %s on %s registered: %s cores, %s MiB, runtimes %s, %d containers kept, %d disowned",
            link.worker_id, link.hostname, message.cpus, message.memory, message.runtimes,
            len(message.containers) - len(lost), len(lost),
        )  # fmt: skip
        self._arrived.set()
        asyncio.get_running_loop().call_soon(self._resume)
        return WorkerRegistered(lost, self._local_ports)

    async def _read_for(self, message: WorkerRegister) -> dict[str, Attempts | None]:
        """Of the inputs in containers that are not known here: the spawned ones; None: it has an output."""
        await self._recall_logs(message)
        spawned: dict[str, Attempts | None] = {}
        read: set[str] = set()
        while True:  # while we read, one that is known may be given up
            unknown = [one for one in message.containers if one.container_id not in self._dispatch.containers]
            input_ids = [input_id for report in unknown for input_id in report.input_ids if input_id not in read]
            if not input_ids:
                return spawned
            read.update(input_ids)
            spawned |= await self._spawned_inputs(input_ids)

    def _take_reports(
        self, link: WorkerLink, message: WorkerRegister, spawned: dict[str, Attempts | None]
    ) -> list[str]:
        """Match what the worker has with what the server knows; returns what the server disowns."""
        dispatch, scheduler = self._dispatch, self._dispatch.scheduler
        now = time.monotonic()
        reported = {report.container_id for report in message.containers}
        for known in [c for c in dispatch.containers.values() if c.worker_id == link.worker_id]:
            if known.id not in reported and known.asked:
                dispatch.exited(known, ContainerExited(known.id, -1, "lost", "its worker was restarted"))
        lost: list[str] = []
        outdated: dict[str, Function] = {}  # they were deployed again, and the server ended before the new took over
        for report in message.containers:
            container = dispatch.containers.get(report.container_id)
            if container is None:
                function = dispatch.functions.get(report.function_id)
                adopted = scheduler.adopt(
                    report.container_id, report.function_id, link.worker_id, report.ready, now, tuple(report.devices)
                )
                if function is None or not adopted:
                    lost.append(report.container_id)
                    continue
                container = Container(report.container_id, function, link.worker_id)
                container.ready = report.ready
                container.asked = container.orphaned = True
                container.devices = tuple(report.devices)
                if report.form and report.form != form_of(function.spec):
                    outdated[function.function_id] = function
                container.state = "running" if report.ready else "starting"
                container.frames = report.outputs_sent
                dispatch.containers[container.id] = container
                returned = set(report.returned)
                cancelled = _since(report, now)
                for token, input_id in zip(report.tokens, report.input_ids, strict=True):
                    if token in returned:  # it was given to another one since, or is to be
                        container.next_token = max(container.next_token, token + 1)
                    else:
                        self._hold(container, token, input_id, spawned, now, cancelled.get(token, 0.0))
                if report.ends_in >= 0:
                    container.state, container.stop_reason = "stopping", report.end_reason
                    scheduler.drain(container.id, now)
            else:
                # What was sent while the worker was away never arrived.
                arrived = set(report.tokens)
                missing = [held for token, held in container.tokens.items() if token not in arrived]
                # Its unacknowledged messages come again: these are known here.
                container.known_frames = container.frames - report.outputs_sent
                heard = _since(report, now)
                for token in container.cancelled:
                    if token not in heard:
                        container.cancelled[token] = now
                self._adopted[container.id] = container
                container.orphaned = True
                container.link = None
                container.lost_inputs = missing if report.ready else []
        for function in outdated.values():
            dispatch.handovers.begin(function, function.spec)
        return lost

    async def _recall_logs(self, message: WorkerRegister) -> None:
        """After a restart of the server: how far the logs of the worker's containers were kept."""
        unknown = [report for report in message.containers if report.container_id not in self._log_numbers]
        for app_id in {report.app_id for report in unknown}:
            kept = await asyncio.to_thread(self._last_log_numbers, app_id)
            for report in unknown:
                if report.app_id == app_id:
                    self._log_numbers.setdefault(report.container_id, kept.get(report.container_id, 0))

    def _hold(
        self,
        container: Container,
        token: int,
        input_id: str,
        spawned: dict[str, Attempts | None],
        now: float,
        cancelled: float,
    ) -> None:
        """An adopted container runs an input of an earlier life of the server, or from before it counted as lost.

        `cancelled`: when it was told to end it, 0 where it was not.
        """
        held = None if cancelled else self._adopt_input(container, token, input_id, spawned)
        if held is None:  # it has an output, or runs elsewhere by now, or nobody waits for it
            held = Held(Call("fc-", "", "", KNOWN), 0, b"", "", "")
            held.over = True
            container.cancelled[token] = cancelled or now
            container.asked_to_cancel = True
        elif held.container is container:  # it has had it before, and what came of that is for nobody
            before = container.tokens[held.token] = Held(Call("fc-", "", "", KNOWN), 0, b"", "", "")
            before.over = True
            container.cancelled[held.token] = now
            self._dispatch.scheduler.swap(container.id, held, before, now)
        else:
            # Its client, or the disk, may have been quicker than the worker: then it waits in the queue already.
            self._dispatch.scheduler.withdraw(container.function.function_id, [held])
            if held.retry is not None:
                held.retry.cancel()
                held.retry = None
        held.container, held.token = container, token
        container.tokens[token] = held
        container.next_token = max(container.next_token, token + 1)
        container.running_since = now
        held.deadline = now + (container.function.spec.timeout or float("inf"))
        self._dispatch.scheduler.hold(container.id, held, now)

    def _adopt_input(
        self, container: Container, token: int, input_id: str, spawned: dict[str, Attempts | None]
    ) -> Held | None:
        """The input as it is known here; None where nobody waits for what this container makes of it."""
        call_id, index = split_input_id(input_id)
        function = container.function
        if input_id in spawned:
            known = spawned[input_id]
            if known is None or known.last == attempt_name(container.id, token):
                return None  # this attempt has failed, and was counted: there is to be another one
            call = Call(call_id, function.function_id, function.app_id, "spawn")
            held = self._adopt_spawned(Held(call, index, b"", "", ""))
            held.attempts = max(held.attempts, known.count)
        else:
            call = self._adopt_call(call_id, function.function_id, function.app_id)
            if index in call.done or (call.kind == "unary" and (call.sent or call.unsent)):
                return None
            if call.inputs_ended and index not in call.inputs:
                return None  # the client has sent all that it waits for
            held = call.inputs.setdefault(index, Held(call, index, b"", "", ""))
        return held if held.container is None or held.container is container else None

    def pause_until_recovered(self, expected: bool) -> None:
        """After a restart: assign nothing until the workers have told what they run."""
        if expected:
            self._dispatch.scheduler.pause()
            asyncio.get_running_loop().call_later(RECOVERY_SECONDS, self._resume)

    def _resume(self) -> None:
        self._dispatch.scheduler.resume(time.monotonic())
        self._dispatch.run()

    def _lost(self, link: WorkerLink) -> None:
        """The worker's connection ended; it has a while to come back."""
        if self.links.get(link.worker_id) is not link:
            return
        log.warning("worker %s is away", link.worker_id)
        asyncio.get_running_loop().call_later(LOST_SECONDS, self._bury, link)

    def _bury(self, link: WorkerLink) -> None:
        if self.links.get(link.worker_id) is not link:
            return
        del self.links[link.worker_id]
        self._dispatch.scheduler.capacity.remove(link.worker_id)
        for container in [c for c in self._dispatch.containers.values() if c.worker_id == link.worker_id]:
            self._dispatch.exited(container, ContainerExited(container.id, -1, "lost", "its worker did not come back"))

    # -- containers
    async def start(self, container: Container) -> None:
        """Ask the worker for a container. Raises Fault."""
        began = time.time()
        spec = await self._prepare(container)
        link = await self._reach(container.worker_id)
        if link is None:
            self._dispatch.exited(container, ContainerExited(container.id, -1, "lost", "its worker went away"))
            return
        if self._dispatch.containers.get(container.id) is not container or container.state == "stopping":
            self._dispatch.exited(container, ContainerExited(container.id, 0, "stopped", container.stop_reason))
            return
        self.marks[container.id] = {"asked": container.started_at, "prepared": time.time(), "began": began}
        container.asked = True
        stream = link.connection.open(ContainerStart(spec))
        self._attach(container, ContainerLink(link, stream, container), stream)

    async def _reach(self, worker_id: str) -> WorkerLink | None:
        """The worker's link, as soon as it is connected; None when it does not come back in time."""
        deadline = time.monotonic() + LOST_SECONDS
        while True:
            link = self.links.get(worker_id)
            if link is not None and not link.connection.closed:
                return link
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return None

    def _attach(self, container: Container, container_link: ContainerLink, stream: Stream) -> None:
        container.link = container_link

        def take(frame: Frame) -> None:
            if container.known_frames and frame.type == RunOutputs.TYPE:
                container.known_frames -= 1
                return
            self._dispatch.take(container, frame)
            if container.frames:
                self._acknowledge(container)

        def ended(error: Exception | None) -> None:
            if isinstance(error, Fault):
                self._dispatch.exited(container, ContainerExited(container.id, -1, "start-failed", error.text))
            elif error is not None and container.link is container_link:
                container.link = None

        stream.on_end = ended
        for frame in stream.take_queued():
            take(frame)
        stream.raw = take

    async def _adopt(self, connection: Connection, message: ContainerAdopt, stream: Stream) -> None:
        """The worker opens the stream of a container that it kept."""
        container = self._dispatch.containers.get(message.container_id)
        link = self.links.get(getattr(connection, "worker_id", ""))
        if container is None or link is None:
            raise Fault(Code.NOT_FOUND, f"container {message.container_id} is not known here")
        container_link = ContainerLink(link, stream, container)
        self._adopted.pop(container.id, None)
        if message.outputs_sent >= 0:
            container.known_frames = max(0, container.frames - message.outputs_sent)
        self._attach(container, container_link, stream)
        missing, container.lost_inputs = container.lost_inputs, []
        for held in self._dispatch.reattached(container, missing):
            container_link.send(run_inputs([held]))
        self._dispatch.run()  # after these: a runner takes inputs to come in the order of their tokens
        if container.function.spec.is_generator or container.function.spec.methods:
            # What an earlier life of the server has held up goes on; whoever is behind is held up anew.
            container_link.resume([token for token, held in container.tokens.items() if held.paused_in is None])
        if container.state == "stopping":
            container_link.end()
        if container.end_order is not None:
            self.kill(container, *container.end_order)
        await stream.wait_ended()

    def kill(self, container: Container, grace: float, reason: str) -> None:
        """End a container: gently within `grace` seconds, at once with 0. While its worker is away: when it is back."""
        if container.end_order is None or grace <= container.end_order[0]:
            container.end_order = grace, reason
        if container.link is None or container.link.worker.connection.closed:
            return
        connection = container.link.worker.connection
        task = asyncio.get_running_loop().create_task(_ask(connection, ContainerKill(container.id, grace, reason)))
        task.add_done_callback(lambda done: done.exception() if not done.cancelled() else None)
        self._dispatch._tasks.add(task)
        task.add_done_callback(self._dispatch._tasks.discard)

    def stop_container(self, container_id: str) -> None:
        """`modal container stop`: SIGINT; its inputs go elsewhere. Raises Fault."""
        container = self._dispatch.containers.get(container_id)
        if container is None:
            raise Fault(Code.NOT_FOUND, f"there is no running container {container_id}")
        self.preempt(container, "stopped by the user")

    def preempt(self, container: Container, reason: str) -> None:
        """SIGINT, exit handlers, end; its inputs start anew elsewhere."""
        container.state = "stopping"
        container.stop_reason = reason
        self._dispatch.scheduler.drain(container.id, time.monotonic())
        self.kill(container, STOP_GRACE, reason)
        self._dispatch.run()

    # -- the network
    async def set_local_ports(self, ports: list[int]) -> None:
        """These ports of the machine's loopback address are there in containers; returns when it is so."""
        if ports == self._local_ports:
            return
        self._local_ports = ports
        links = [link for link in self.links.values() if not link.connection.closed]
        asking = [asyncio.create_task(_ask(link.connection, LocalPorts(ports))) for link in links]
        if asking:  # a worker that does not answer holds nobody up
            await asyncio.wait(asking, timeout=PORTS_SECONDS)

    # -- volumes
    async def sync_volume(self, container_id: str, volume_id: str, action: str, worker_id: str = "") -> None:
        """Commit or reload a volume in a container. Raises Fault; WireError where the worker goes away meanwhile."""
        container = self._dispatch.containers.get(container_id)
        where = container.worker_id if container is not None else worker_id
        link = await self._reach(where) if where else None
        if link is None:
            raise Fault(Code.NOT_FOUND, f"container {container_id} does not run")
        try:
            await link.connection.request(WorkerVolumeSync(container_id, volume_id, action), Done)
        except WireError as error:
            raise Fault(Code.INTERNAL, f"the worker went away during the {action}: try it again") from error

    def volume_changed(self, volume_id: str) -> None:
        """Let workers that have had it mounted prepare its newest version."""
        for link in self.links.values():
            if not link.connection.closed:
                task = asyncio.get_running_loop().create_task(
                    _ask(link.connection, WorkerVolumeSync("", volume_id, "prepare"))
                )
                self._dispatch._tasks.add(task)
                task.add_done_callback(self._dispatch._tasks.discard)

    def _acknowledge(self, container: Container) -> None:
        count = container.safe_frames()
        self._unacked.setdefault(container.worker_id, {})[container.id] = count
        self._ack_soon()

    def _ack_soon(self) -> None:
        if self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._send_acks)

    def _send_acks(self) -> None:
        self._ack_timer = None
        unacked_logs, self._unacked_logs = self._unacked_logs, {}
        for worker_id, numbers in unacked_logs.items():
            link = self.links.get(worker_id)
            if link is not None:
                link.connection.note(LogsAck(list(numbers), list(numbers.values())))
        unacked, self._unacked = self._unacked, {}
        for worker_id, counts in unacked.items():
            link = self.links.get(worker_id)
            if link is not None:
                link.connection.note(OutputsAck(list(counts), list(counts.values())))

    # -- notes
    def _logs(self, connection: Connection, message: ContainerLogs) -> None:
        container = self._dispatch.containers.get(message.container_id)
        if message.first:
            known = self._log_numbers.get(message.container_id, 0)
            del message.entries[: max(0, known + 1 - message.first)]  # sent again: these are kept
            first = max(message.first, known + 1)
            last = self._log_numbers[message.container_id] = first + len(message.entries) - 1
            self._unacked_logs.setdefault(getattr(connection, "worker_id", ""), {})[message.container_id] = last
            self._ack_soon()
            if len(self._log_numbers) > LOG_NUMBERS:
                self._forget_log_numbers()
        for number, entry in enumerate(message.entries, first if message.first else 0):
            entry.number = number if message.first else 0
            entry.container_id = message.container_id
            if container is not None:
                entry.function_id = container.function.function_id
                entry.function_name = container.function.name
        self._append_logs(message.app_id, message.entries)

    def _forget_log_numbers(self) -> None:
        """Containers that ended long ago send nothing again."""
        for container_id in list(self._log_numbers)[: LOG_NUMBERS // 2]:
            if container_id not in self._dispatch.containers:
                del self._log_numbers[container_id]

    def _take_marks(self, connection: Connection, message: ContainerMarks) -> None:
        marks = self.marks.setdefault(message.container_id, {})
        marks.update(message.marks)
        while len(self.marks) > 200:
            self.marks.pop(next(iter(self.marks)))

    def _take_stats(self, connection: Connection, message: WorkerStats) -> None:
        link = self.links.get(getattr(connection, "worker_id", ""))
        if link is not None:
            link.stats = message

    def timings(self, container_id: str) -> dict[str, float]:
        """Milliseconds from the decision to start to each step. Raises Fault."""
        marks = dict(self.marks.get(container_id) or {})
        container = self._dispatch.containers.get(container_id)
        if container is not None:
            marks.update(container.marks)
        asked = marks.pop("asked", None)
        if asked is None:
            raise Fault(Code.NOT_FOUND, f"the start of container {container_id} is not remembered")
        return {name: round((at - asked) * 1000, 2) for name, at in sorted(marks.items(), key=lambda item: item[1])}

    def describe(self) -> list[dict[str, Any]]:
        """One JSON object for each worker."""
        return [
            {
                "worker_id": link.worker_id,
                "hostname": link.hostname,
                "pid": link.pid,
                "cpus": link.cpus,
                "memory": link.memory,
                "runtimes": link.runtimes,
                "connected": not link.connection.closed,
                "drained": link.worker_id in self._dispatch.scheduler.capacity.drained,
                "containers": sum(c.worker_id == link.worker_id for c in self._dispatch.containers.values()),
                "gpus": link.gpus,
                "memory_used": link.stats.memory_used if link.stats is not None else 0,
            }
            for link in self.links.values()
        ]

    # -- images
    def any(self) -> WorkerLink:
        """A worker that is there, and not drained. Raises Fault."""
        connected = [link for link in self.links.values() if not link.connection.closed]
        for link in connected:
            if link.worker_id not in self._dispatch.scheduler.capacity.drained:
                return link
        if connected:
            raise Fault(Code.EXECUTION, "all workers are drained: `intermodal undrain` lets them work again")
        raise Fault(Code.INTERNAL, "no worker is connected: see `intermodal status` and `intermodal logs`")

    async def available(self) -> WorkerLink:
        """As `any`, but waits a while for a worker that has just started, or is started again."""
        try:
            return self.any()
        except Fault as fault:
            if fault.code != Code.INTERNAL:
                raise
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), LOST_SECONDS)
            except TimeoutError:
                pass
            return self.any()

    async def build_image(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        secrets: dict[str, dict[str, str]],
        ignore_cache: bool,
        on_log: Callable[[BuildLog], Awaitable[None]] | Callable[[BuildLog], None],
        environment: str = "",
    ) -> WorkerImageBuilt:
        """Have an image built; again when the worker is restarted meanwhile. Raises Fault with the failed step."""
        for _attempt in range(BUILD_ATTEMPTS):
            link = await self.available()
            stream = link.connection.open(WorkerImageBuild(image_id, recipe, secrets, ignore_cache, environment))
            try:
                return await _follow_build(stream, on_log, image_id)
            except WireError as error:
                log.warning("the worker went away while it built %s: %s", image_id, error)
            except asyncio.CancelledError:
                stream.cancel()
                raise
        raise Fault(Code.INTERNAL, f"the worker ended {BUILD_ATTEMPTS} times while it built {image_id}: see its log")

    async def stop_all(self, keep_containers: bool) -> None:
        """Have all workers end."""
        for link in list(self.links.values()):
            await _ask(link.connection, WorkerStop(keep_containers))


async def _follow_build(
    stream: Stream,
    on_log: Callable[[BuildLog], Awaitable[None]] | Callable[[BuildLog], None],
    image_id: str,
) -> WorkerImageBuilt:
    async for message in stream:
        if isinstance(message, BuildLog):
            waited = on_log(message)
            if waited is not None:
                await waited
        elif isinstance(message, WorkerImageBuilt):
            return message
    raise Fault(Code.INTERNAL, f"the worker did not say how the build of {image_id} ended")


def _since(report: ContainerReport, now: float) -> dict[int, float]:
    """Inputs that the container was told to end: by token, when."""
    return {token: now - ago for token, ago in zip(report.cancelled, report.cancelled_for, strict=True)}


async def _ask(connection: Connection, message: Message) -> None:
    """A request whose failure means that the worker is away: its return settles the matter."""
    try:
        await connection.request(message, Done)
    except (WireError, Fault) as error:
        log.info("%s was not answered: %s", type(message).__name__, error)


__all__ = ["BlobChunk", "ContainerLink", "WorkerLink", "Workers"]
