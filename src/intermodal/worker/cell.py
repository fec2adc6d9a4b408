"""One container on this worker: its process, its runner's connections, its stream to the server, its logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from intermodal.spares import Spares, remove_all, spare_of
from intermodal.worker import api, values
from intermodal.worker.cell_logs import CellLogs
from intermodal.worker.containers.launch import Exit
from intermodal.worker.containers.running import Running
from intermodal.worker.disk_guard import size_of
from intermodal.worker.liveness import START_SECONDS, Liveness, start_limit
from intermodal.worker.runner_connection import RUNNER_STREAM, RunnerConnection
from intermodal.worker.server_links import ServerLinks
from modal._protocol.aio import Stream
from modal._protocol.errors import Code, Fault, ProtocolError
from modal._protocol.frames import Frame, Kind
from modal._protocol.message import Message
from modal._protocol.messages.call import Status
from modal._protocol.messages.log import LogEntry
from modal._protocol.messages.log import Stream as LogStream
from modal._protocol.messages.wire import Hello, Welcome
from modal._protocol.messages.worker import (
    ContainerExited,
    ContainerLogs,
    ContainerReport,
    ContainerSpec,
    ExpressLeave,
    Heartbeat,
    RunCancel,
    RunInputs,
    RunnerAck,
    RunnerFailed,
    RunnerHolds,
    RunnerReady,
    RunnerResumed,
    RunnerStart,
    RunnerStops,
    RunOutputs,
    RunPause,
    RunRecall,
    RunResume,
)

log = logging.getLogger("intermodal.cell")

VALUES_DIR = "/.intermodal/run/values"
LAST_WORDS_SECONDS = 2.0  # how long the end of a container waits for what its runner has sent before
BLOB_MARK = b'"vl-'  # stands in the header of a message that names large values


class Cell:
    """`stream` is the way to the server, None while that is away; outputs are kept until it has acknowledged them."""

    def __init__(
        self,
        container_id: str,
        app_id: str,
        function_id: str,
        directory: Path,
        store: Path,
        emit_logs: Callable[[Cell, ContainerLogs], None],
        hand_over: Callable[[str, int, str, str], None],
        spares: Spares,
    ) -> None:
        self.container_id = container_id
        self.app_id = app_id
        self.function_id = function_id
        self.directory = directory
        self.run_dir = directory / "run"
        self.spec: ContainerSpec | None = None
        self.running: Running | None = None
        self.stream: Stream | None = None
        self.ready = False
        self.met = asyncio.Event()  # a runner has connected
        self.start_failure = ""  # why this worker ended it while it started
        self.resumed = asyncio.Event()  # an adopted container's runner is back
        self.stop_reason = ""
        self.ends_at = 0.0  # monotonic: when it is killed, where it was asked to end
        self.exit: ContainerExited | None = None  # the process is gone; the server may not know yet
        self.released = asyncio.Event()  # the server knows all there is to know
        self.devices: list[str] = []  # ids of GPUs that are its own
        self.form = ""  # which version of its function it runs
        self.restricted = False  # its code may not use the API
        self.environment = ""  # as its code knows it: it may be called something else by now
        self.forsaken = False  # the server went away while it started: it will be started anew
        self.marks: dict[str, float] = {}
        self._store = store
        self._spares = spares
        self._memory = 0  # bytes that it may use, 0 where there is no limit
        self._links = ServerLinks(container_id, hand_over, lambda: self.stream is not None)
        self.express_told = asyncio.Event()  # what came by the express way is known here
        self.express_told.set()
        self._unasked: deque[int] = deque(maxlen=16)  # tokens with an output whose inputs have not come this way
        self._servers: list[asyncio.AbstractServer] = []
        self._runner: RunnerConnection | None = None
        self._control: RunnerConnection | None = None
        self._early: list[Message] = []  # for the runner, before it is there
        self._early_notes: list[Message] = []  # the same for its control connection
        self._inflight: dict[int, str] = {}  # token -> input id
        self._inputs = 0  # so many were given to it
        self._cancelled: dict[int, float] = {}  # tokens that it was told to end -> monotonic: since when
        self._given: dict[int, str] = {}  # token -> large argument in the container's directory
        self._outputs: deque[tuple[bytes, dict[int, str]]] = deque()  # unacknowledged RunOutputs: bytes, their inputs
        self._failure: tuple[bytes, bytes] | None = None  # RunnerFailed, header and body
        self._stops = False  # its code wants no more inputs
        self._first_output = 0  # number of the first one in `_outputs`
        self._returned: set[int] = set()  # tokens in these that were given back unstarted
        self._no_more_inputs = False
        self._server_knows = False  # of the exit
        self._serial = True
        self._runner_gone = asyncio.Event()
        self._overran = ""  # why it was ended for the sake of the machine's disk
        self.logs = CellLogs.of(
            directory, app_id, container_id, lambda logs: emit_logs(self, logs), lambda: self.stream is not None
        )
        self.liveness = Liveness(START_SECONDS)

    # -- sockets
    async def listen(
        self, server: str, credentials: Hello, refused: Callable[[], Fault | None], knows: Callable[[], bool]
    ) -> None:
        """Open the container's two sockets. For the last two see `api.Inner`."""
        values_dir = self.run_dir / "values"
        values_dir.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        for name, factory in (
            ("runner.sock", lambda: RunnerConnection(self)),
            ("api.sock", lambda: api.Inner(self.container_id, server, credentials, refused, self.environment, knows)),
        ):
            path = self.run_dir / name
            path.unlink(missing_ok=True)
            self._servers.append(await api.listen(loop, factory, path))

    def remember(self) -> None:
        """Write down what a later worker must know to adopt the container."""
        if self.spec is not None:
            function = self.spec.runner.function
            self._serial = not function.is_async and function.concurrent_max <= 1
            self.restricted = self.spec.restrict_modal_access
            self.devices, self.form = list(self.spec.devices), self.spec.form
            self._memory = self.spec.resources.memory_limit << 20
            self.environment = self.spec.runner.environment
            self.spec.runner.start_limit = self.liveness.limit = start_limit(function)
        note = {
            "app_id": self.app_id,
            "function_id": self.function_id,
            "serial": self._serial,
            "restricted": self.restricted,
            "devices": self.devices,
            "form": self.form,
            "memory": self._memory,
            "environment": self.environment,
            "start_limit": self.liveness.limit,
            "ends_at": self.ends_at,
            "stop_reason": self.stop_reason,
        }
        temporary = self.directory / "cell.json.new"
        temporary.write_text(json.dumps(note))
        temporary.rename(self.directory / "cell.json")

    def recall(self, note: dict[str, object]) -> None:
        """What an earlier worker has written down."""
        self._serial = bool(note.get("serial", True))
        self.restricted = bool(note.get("restricted", False))
        devices = note.get("devices")
        self.devices = [str(one) for one in devices] if isinstance(devices, list) else []
        self.form = str(note.get("form", ""))
        memory = note.get("memory")
        self._memory = memory if isinstance(memory, int) else 0
        self.environment = str(note.get("environment", ""))
        ends_at = note.get("ends_at")
        self.ends_at = float(ends_at) if isinstance(ends_at, (int, float)) else 0.0
        self.stop_reason = str(note.get("stop_reason", ""))
        remove_all(self.run_dir / "values")
        limit = note.get("start_limit")
        self.liveness.limit = float(limit) if isinstance(limit, (int, float)) else START_SECONDS

    def started(self, running: Running) -> None:
        """The process runs: read what it prints."""
        self.running = running
        self.logs.open(running, self._attribute)

    # -- from the server
    def attach(self, stream: Stream) -> None:
        """The way to the server is there (again): send what it has not acknowledged."""
        self.stream = stream
        self._unasked.clear()
        stream.raw = self.from_server
        stream.on_end = self._server_ended
        self.logs.resend()
        if self.ready:  # it may have become so while nobody listened
            stream.send_now(RunnerReady())
        if self._stops:
            stream.send_now(RunnerStops())
        for data, _inputs in self._outputs:
            _forward(stream, RunOutputs.TYPE, data)
        if self._failure is not None:
            stream.send_frame(RunnerFailed.TYPE, *self._failure)
        self._links.give()
        if self.exit is not None:
            self._tell_exit()
        else:
            self.logs.read()

    def detach(self) -> None:
        """The server is away."""
        self.stream = None
        if self._links.has_express:
            self._links.has_express = False
            self.express_told.clear()
            self.tell(ExpressLeave())
        self.logs.pause()

    def from_server(self, frame: Frame) -> None:
        if frame.type == RunInputs.TYPE:
            # A large argument must be there before its input is; nothing else holds one up.
            sent = self._runner is not None and BLOB_MARK not in frame.header
            if sent:
                self._runner.send(frame.kind, frame.type, frame.header, frame.body)  # type: ignore[union-attr]
            message = RunInputs.decode(frame.header, frame.body)
            for token, blob in zip(message.tokens, message.blobs, strict=False):
                if blob:
                    self._give(token, blob)
            self._inputs += len(message.tokens)
            self._inflight.update(zip(message.tokens, message.input_ids, strict=False))
            while self._unasked:  # what came by the express way may be answered before this copy of it comes
                self._inflight.pop(self._unasked.popleft(), None)
            if self._runner is None:
                self._early.append(message)
            elif not sent:
                self._runner.send(frame.kind, frame.type, frame.header, frame.body)
        elif frame.type == RunRecall.TYPE:
            self.tell(RunRecall.decode(frame.header, frame.body))
        elif frame.type == RunPause.TYPE:
            self.tell(RunPause.decode(frame.header, frame.body))
        elif frame.type == RunResume.TYPE:
            self.tell(RunResume.decode(frame.header, frame.body))

    def _give(self, token: int, blob: str) -> None:
        self._given[token] = blob
        try:
            values.give(self._store, self.run_dir / "values", blob)
        except OSError as error:
            log.warning("%s: value %s is not there: %s", self.container_id, blob, error)

    def _take_back(self, token: int) -> None:
        """The input is over: its large argument is of no more use, whether the runner read it or not."""
        blob = self._given.pop(token, "")
        if blob:
            (self.run_dir / "values" / blob).unlink(missing_ok=True)

    def _take(self, blob: str) -> bool:
        """Move a large value that the container has written to the store. False where there is none."""
        directory = self.run_dir / "values"
        if not values.take(directory, self._store, blob):
            return False
        spare = spare_of(directory / blob)
        if spare is not None:
            self._spares.keep(*spare, self._memory)
        return True

    async def move_values(self, written: list[str], wanted: list[str]) -> None:
        """Large values of calls that the container makes itself. Raises Fault. May be asked for twice."""
        directory = self.run_dir / "values"
        for blob in written:
            if not self._take(blob) and not values.is_kept(self._store, blob):
                raise Fault(Code.NOT_FOUND, f"the container has written no value {blob[:80]!r}")
        for blob in wanted:
            try:
                await asyncio.to_thread(values.copy, self._store, directory, blob)
            except OSError as error:
                raise Fault(Code.NOT_FOUND, f"the value {blob[:80]!r} is not kept any more") from error

    def forsake(self) -> None:
        """Nobody will ask for this container again."""
        self.forsaken = True
        self.stop_reason = "the server went away while it started"
        self.released.set()

    def _server_ended(self, error: Exception | None) -> None:
        if self.exit is not None and (error is None or isinstance(error, Fault)):
            self._server_knows = True
            self._release_if_known()
        elif error is None:
            self.end_inputs()
        elif self.stream is not None:
            self.detach()

    def activity(self) -> tuple[bool, int]:
        """Whether it runs inputs or is still starting, and how many inputs it has been given."""
        return bool(self._inflight) or not self.ready, self._inputs

    def end_inputs(self) -> None:
        """No more inputs: the runner finishes what it has, runs exit handlers, and ends."""
        self._no_more_inputs = True
        if self._runner is not None:
            self._runner.send(Kind.END, 0, b"", b"")

    def tell(self, message: Message) -> None:
        """A note on the control connection."""
        if self._control is not None:
            self._control.send(Kind.NOTE, message.TYPE, *message.encode(), stream=0)
        elif not isinstance(message, RunnerAck):  # the next one says it all
            self._early_notes.append(message)

    def cancel(self, tokens: list[int]) -> None:
        for token in tokens:
            self._cancelled.setdefault(token, time.monotonic())
        self.tell(RunCancel(tokens))

    def acknowledged(self, count: int) -> None:
        """The server has RunOutputs frames up to this count."""
        while self._outputs and self._first_output < count:
            self._returned.difference_update(self._outputs.popleft()[1])
            self._first_output += 1
        self.tell(RunnerAck(count))
        self._release_if_known()

    def written(self) -> int:
        """See disk_guard.Writer."""
        own = 0
        if self.running is not None and self.running.state.disk:
            found = os.statvfs(self.running.places.disk)
            own = (found.f_blocks - found.f_bfree) * found.f_frsize
        return own + size_of(self.run_dir)

    async def end_stuck(self, text: str) -> None:
        """It is not alive any more; see `liveness`."""
        if self.running is None or self.start_failure:
            return
        log.warning("%s: %s", self.container_id, text)
        if not self.ready:
            self.start_failure = text
        self.say(f"{text}; it is ended")
        self.liveness.beat()
        await self.running.kill()

    async def end_for_disk(self, text: str) -> None:
        """See disk_guard.Writer."""
        self._overran = text
        self.say(text)
        if self.running is not None:
            await self.running.kill()

    def logs_acknowledged(self, count: int) -> None:
        """The server has kept log entries up to this number."""
        self.logs.acknowledged(count)
        self._release_if_known()

    def ask_to_end(self, grace: float) -> bool:
        """Whether it is so: it has at most that many seconds more. Not where it has less already."""
        ends_at = time.monotonic() + grace
        if self.ends_at and self.ends_at <= ends_at:
            return False
        self.interrupt()
        self.ends_at = ends_at
        with contextlib.suppress(OSError):  # a full disk: then only this worker knows
            self.remember()
        return True

    def interrupt(self) -> None:
        """Ask the container to end: it gets SIGINT when it is busy."""
        self.end_inputs()
        if self.running is not None and (self._inflight or not self.ready):
            # Before its runner has connected there is nobody who would end in an orderly way.
            early = self._runner is None and not self.ready
            self.running.signal(signal.SIGKILL if early else signal.SIGINT)

    # -- from the runner
    def greeted(self, connection: RunnerConnection, hello: Hello) -> None:
        """A runner has connected."""
        if hello.role in ServerLinks.roles:
            assert connection.transport is not None
            self._links.keep(hello.role, connection.transport)
            return
        if hello.role == "runner-control":
            self._control = connection
            notes, self._early_notes = self._early_notes, []
            for note in notes:
                self.tell(note)
            return
        self._runner = connection
        self.met.set()
        self._runner_gone.clear()
        if self.spec is not None and hello.software != "resume":
            welcome: Message = RunnerStart(self.spec.runner, VALUES_DIR)
        else:
            welcome = Welcome(hello.version_max)
        connection.send(Kind.WELCOME, welcome.TYPE, *welcome.encode(), stream=0)
        early, self._early = self._early, []
        for message in early:
            connection.send(Kind.ITEM, message.TYPE, *message.encode())
        if self._no_more_inputs:
            connection.send(Kind.END, 0, b"", b"")

    def from_runner(self, connection: RunnerConnection, frame: Frame) -> None:
        """A frame on the data or the control connection."""
        if connection is self._control:
            if frame.type == Heartbeat.TYPE:
                self.liveness.beat()
            return
        if frame.kind != Kind.ITEM or frame.stream != RUNNER_STREAM:
            raise ProtocolError("a runner sends items on its own stream alone")
        if frame.type == RunOutputs.TYPE:
            self._take_outputs(frame)
            return
        if frame.type == RunnerReady.TYPE:
            self.ready = True
        elif frame.type == RunnerResumed.TYPE:
            self._resume(RunnerResumed.decode(frame.header, frame.body))
            return
        elif frame.type == RunnerHolds.TYPE:
            holds = RunnerHolds.decode(frame.header, frame.body)
            self._inflight.update(zip(holds.tokens, holds.input_ids, strict=False))
            self.express_told.set()
            return
        elif frame.type == RunnerStops.TYPE:
            self._stops = True
        elif frame.type == RunnerFailed.TYPE:
            self._failure = frame.header, frame.body
        else:
            raise ProtocolError(f"a runner does not send messages of type {frame.type}")
        self.logs.drain()
        if self.stream is not None:
            self.stream.send_frame(frame.type, frame.header, frame.body)

    def _take_outputs(self, frame: Frame) -> None:
        message = RunOutputs.decode(frame.header, frame.body)
        self.logs.drain()  # what was printed before an output arrives before it
        for blob in message.blobs:
            if blob and not self._take(blob):
                log.warning("%s: its runner named value %r, which is not there", self.container_id, blob)
        if self.stream is not None:
            self.stream.send_frame(frame.type, frame.header, frame.body)
            self.stream.connection.flush()
        inputs = {}
        for token, status in zip(message.tokens, message.statuses, strict=False):
            if status == Status.YIELDED:
                continue
            self._cancelled.pop(token, None)
            if self._given:
                self._take_back(token)
            input_id = self._inflight.pop(token, None)
            if input_id is not None:
                inputs[token] = input_id
            else:
                self._unasked.append(token)
                if status == Status.RETURNED:
                    self._returned.add(token)
        data = len(frame.header).to_bytes(4, "big") + frame.header + frame.body
        self._outputs.append((data, inputs))

    def _resume(self, message: RunnerResumed) -> None:
        """The runner of an adopted container tells what it holds."""
        self.ready = message.ready
        self._first_output = message.first
        self._outputs.clear()
        self._inflight = dict(zip(message.tokens, message.input_ids, strict=False))
        self._returned = set(message.returned)
        late = not self.resumed.is_set() and self.stream is not None
        self.resumed.set()
        if late and self.ready and self.stream is not None:
            self.stream.send_now(RunnerReady())

    def runner_lost(self, connection: RunnerConnection) -> None:
        if connection is self._control:
            self._control = None
        elif connection is self._runner:
            self._runner = None
            self._runner_gone.set()
            self.express_told.set()

    def report(self) -> ContainerReport:
        """What the server must know when the worker registers: also the inputs whose outputs it may not have."""
        held = {token: input_id for _data, inputs in self._outputs for token, input_id in inputs.items()}
        held.update(self._inflight)
        now = time.monotonic()
        cancelled = {token: now - at for token, at in self._cancelled.items() if token in held}
        return ContainerReport(
            self.container_id,
            self.app_id,
            self.function_id,
            self.ready,
            list(held),
            list(held.values()),
            self._first_output,
            self.exit is not None,
            self.devices,
            self.form,
            [token for token in held if token in self._returned],
            list(cancelled),
            list(cancelled.values()),
            max(0.0, self.ends_at - now) if self.ends_at else -1.0,
            self.stop_reason,
        )

    @property
    def outputs_sent(self) -> int:
        """RunOutputs frames that the server has acknowledged."""
        return self._first_output

    # -- logs
    def say(self, text: str) -> None:
        """A line of the platform's own."""
        self.logs.put([LogEntry(time.time(), LogStream.SYSTEM, text + "\n")])

    def _attribute(self, mark: str | None) -> str:
        """Which input has printed. The runner marks what Python code prints; for the rest it is certain where one
        input runs at a time, or only one is under way."""
        if mark is not None and (not mark or mark in self._inflight.values()):
            return mark
        if self._inflight and (self._serial or len(self._inflight) == 1):
            return next(iter(self._inflight.values()))
        return ""

    # -- the end
    async def finish(self, exit: Exit) -> None:
        """The process has ended: take in its last words, then tell the server."""
        if self._runner is not None:
            try:
                await asyncio.wait_for(self._runner_gone.wait(), LAST_WORDS_SECONDS)
            except TimeoutError:
                pass
        self.logs.end()
        if self._overran:
            exit = replace(exit, reason="out-of-disk", detail=self._overran)
        if self.start_failure:
            exit = replace(exit, reason="start-failed", detail=self.start_failure)
        reason = "stopped" if self.stop_reason and exit.reason in ("exited", "killed") else exit.reason
        self._ended(ContainerExited(self.container_id, exit.code, reason, exit.detail or self.stop_reason, exit.signal))

    def not_started(self, detail: str) -> None:
        """There will be no process."""
        self._ended(ContainerExited(self.container_id, -1, "stopped" if self.stop_reason else "start-failed", detail))

    def _ended(self, message: ContainerExited) -> None:
        self.exit = message
        self.resumed.set()
        if self.stream is not None:
            self._tell_exit()

    def _tell_exit(self) -> None:
        assert self.stream is not None
        assert self.exit is not None
        self.stream.send_now(self.exit)
        self.stream.end()

    def _release_if_known(self) -> None:
        if self._server_knows and not self._outputs and self.logs.is_empty:
            self.released.set()

    async def close(self) -> None:
        """Close the sockets; the process is the caller's."""
        self._links.close()
        for server in self._servers:
            server.close()
        for connection in (self._runner, self._control):
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
        self.logs.close()

    def abandon(self) -> None:
        """As `close`, for a container that runs on: its output stays in the pipes for the next worker."""
        self.logs.pause()
        for server in self._servers:
            server.close()
        for connection in (self._runner, self._control):
            if connection is not None and connection.transport is not None:
                connection.transport.abort()


def _forward(stream: Stream, type: int, data: bytes) -> None:
    size = int.from_bytes(data[:4], "big")
    stream.send_frame(type, data[4 : 4 + size], data[4 + size :])
