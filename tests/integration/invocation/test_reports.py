"""What a worker reports when it registers, matched with what clients ask for: nothing runs twice, nothing is awaited
for ever. The worker is one that says what it is told to say.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modal._protocol.aio import Connection, Handlers, Stream, connect
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.message import Message
from modal._protocol.messages.call import CallOpen, Inputs, Outputs, Status
from modal._protocol.messages.wire import Done, Hello
from modal._protocol.messages.worker import (
    ContainerAdopt,
    ContainerKill,
    ContainerReport,
    ContainerSignalInput,
    ContainerStart,
    LogsAck,
    OutputsAck,
    RunInputs,
    RunOutputs,
    WorkerRegister,
    WorkerRegistered,
)
from tests.integration.invocation.rig import Rig

CALL = "fc-" + "A" * 26
FUNCTION = "fu-f"
FIRST, SECOND = "ta-first", "ta-second"


class ToldWorker:
    """Notes what the server wants of it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.connection: Connection | None = None
        self.streams: dict[str, Stream] = {}
        self.started: list[str] = []
        self.cancelled: list[int] = []
        self.given: list[tuple[str, str]] = []  # container, input
        self.acknowledged: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def register(self, *reports: ContainerReport) -> None:
        handlers = Handlers()
        handlers.stream(ContainerStart)(self._start)
        handlers.unary(ContainerKill)(self._kill)
        handlers.note(ContainerSignalInput)(lambda _connection, message: self.cancelled.extend(message.tokens))
        handlers.note(OutputsAck)(self._acknowledged)
        handlers.note(LogsAck)(lambda _connection, _message: None)
        hello = Hello("worker", VERSION_MIN, VERSION_MAX, worker_id="wo-told")
        self.connection = await connect(self.address, hello, handlers)
        message = WorkerRegister("wo-told", "told", 4.0, 8000, runtimes=["host"], containers=list(reports))
        assert not (await self.connection.request(message, WorkerRegistered)).lost

    def adopt(self, container_id: str, outputs_sent: int = 0) -> None:
        assert self.connection is not None
        stream = self.streams[container_id] = self.connection.open(ContainerAdopt(container_id, outputs_sent))
        task = asyncio.get_running_loop().create_task(self._follow(container_id, stream))
        self._tasks.add(task)

    async def output(self, container_id: str, token: int, status: int, value: bytes = b"") -> None:
        await self.streams[container_id].send(RunOutputs([token], [status], [value]))

    async def _follow(self, container_id: str, stream: Stream) -> None:
        async for message in stream:
            if isinstance(message, RunInputs):
                self.given += [(container_id, input_id) for input_id in message.input_ids]

    async def _start(self, _connection: Connection, message: ContainerStart, stream: Stream) -> None:
        self.started.append(message.spec.container_id)
        await stream.wait_ended()

    async def _kill(self, _connection: Connection, _message: ContainerKill) -> Done:
        return Done()

    def _acknowledged(self, _connection: Connection, message: OutputsAck) -> None:
        self.acknowledged.update(zip(message.container_ids, message.counts, strict=True))

    def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self.connection is not None:
            self.connection.abort()


class Client:
    """The client of a map, which comes back after a restart of the server."""

    def __init__(self, connection: Connection) -> None:
        self.stream = connection.open(CallOpen(CALL, FUNCTION, "map", "", True, 0))

    async def send(self, *indexes: int) -> None:
        await self.stream.send(Inputs(list(indexes), [b"arguments"] * len(indexes)))

    async def answer(self) -> tuple[int, int, bytes]:
        """Of the one output that comes next: its index, its status and its value."""
        message: Message | None = await self.stream.receive()
        assert isinstance(message, Outputs), message
        (index,), (status,), (value,) = message.indexes, message.statuses, message.values
        return index, status, value

    async def is_over(self) -> bool:
        return await self.stream.receive() is None


def report(container_id: str, held: dict[int, int], returned: tuple[int, ...] = (), sent: int = 0) -> ContainerReport:
    """`held`: token -> index of the call's input."""
    ids = [f"in-{CALL[3:]}-{index}" for index in held.values()]
    return ContainerReport(container_id, "ap-1", FUNCTION, True, list(held), ids, sent, returned=list(returned))


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    """A server that was just restarted."""
    with tempfile.TemporaryDirectory(prefix="im-rig-", dir="/tmp") as directory:
        rig = Rig(Path(directory))
        await rig.start_server(expect_workers=True)
        rig.function(FUNCTION, "program", "f")
        yield rig
        rig.server.close()
        rig.cut()
        await rig.store.close()


@pytest.fixture
async def worker(it: Rig) -> AsyncIterator[ToldWorker]:
    told = ToldWorker(it.address)
    yield told
    told.leave()


@pytest.fixture
async def client(it: Rig) -> AsyncIterator[Client]:
    connection = await connect(it.address, Hello("client", VERSION_MIN, VERSION_MAX))
    yield Client(connection)
    connection.abort()


async def test_what_one_container_gave_back_and_another_one_runs(worker: ToldWorker, client: Client) -> None:
    """The server died before it had said that it knows: the input is the second container's."""
    await client.send(0)
    await worker.register(report(FIRST, {7: 0}, returned=(7,)), report(SECOND, {3: 0}))
    worker.adopt(FIRST)
    worker.adopt(SECOND)
    await worker.output(FIRST, 7, Status.RETURNED)
    await worker.output(SECOND, 3, Status.SUCCESS, b"once")
    assert await client.answer() == (0, Status.SUCCESS, b"once")
    assert not worker.given
    assert not worker.cancelled


async def test_what_was_given_back_and_nobody_has(it: Rig, worker: ToldWorker, client: Client) -> None:
    """It runs when its client has sent it again, under a number of its own."""
    await client.send(0)
    await worker.register(report(FIRST, {7: 0}, returned=(7,)))
    worker.adopt(FIRST)
    await worker.output(FIRST, 7, Status.RETURNED)
    while not worker.given:
        await asyncio.sleep(0.01)
    assert worker.given == [(FIRST, f"in-{CALL[3:]}-0")]
    await worker.output(FIRST, 8, Status.SUCCESS, b"run")
    assert await client.answer() == (0, Status.SUCCESS, b"run")
    assert it.invocation.dispatch.functions[FUNCTION].pool.assigned == 0


async def test_an_input_that_a_container_has_had_twice(it: Rig, worker: ToldWorker, client: Client) -> None:
    """It was tried again in the container in which it failed. The second attempt is the one that counts."""
    await client.send(0)
    await worker.register(report(FIRST, {1: 0, 2: 0}))
    worker.adopt(FIRST)
    await worker.output(FIRST, 1, Status.FAILURE, b"failed")
    await worker.output(FIRST, 2, Status.SUCCESS, b"second")
    assert await client.answer() == (0, Status.SUCCESS, b"second")
    assert it.invocation.dispatch.functions[FUNCTION].pool.assigned == 0
    assert not it.invocation.dispatch.containers[FIRST].tokens


@pytest.mark.parametrize("first", ["worker", "client"])
async def test_an_answer_that_the_client_has(it: Rig, worker: ToldWorker, client: Client, first: str) -> None:
    """It sends only what it has no answer to, so it does not wait for the rest, and no container runs it to the end."""

    async def come_back() -> None:
        await client.send(1)
        client.stream.end()
        calls = it.invocation.calls.calls
        while CALL not in calls or not calls[CALL].inputs_ended:
            await asyncio.sleep(0.01)

    if first == "client":
        await come_back()
    await worker.register(report(FIRST, {5: 0}), report(SECOND, {1: 1}))
    worker.adopt(FIRST)
    worker.adopt(SECOND)
    if first == "worker":
        await come_back()
    while 5 not in worker.cancelled:
        await asyncio.sleep(0.01)
    await worker.output(FIRST, 5, Status.TERMINATED)
    await worker.output(SECOND, 1, Status.SUCCESS, b"one")
    answers = [await client.answer()]
    if answers[0][0] == 0:  # which the client passes over: it knows the answer
        answers.append(await client.answer())
    assert answers[-1] == (1, Status.SUCCESS, b"one")
    assert await client.is_over()
    assert it.invocation.dispatch.functions[FUNCTION].pool.assigned == 0


async def test_outputs_that_are_acknowledged_while_the_worker_registers(worker: ToldWorker, client: Client) -> None:
    """It says how many follow when it sends them: after its report, some more may have been acknowledged."""
    await client.send(0, 1)
    await worker.register(report(FIRST, {1: 0, 2: 1}, sent=5))
    worker.adopt(FIRST, 5)
    await worker.output(FIRST, 1, Status.SUCCESS, b"zero")
    assert await client.answer() == (0, Status.SUCCESS, b"zero")
    worker.leave()
    await worker.register(report(FIRST, {1: 0, 2: 1}, sent=5))
    worker.adopt(FIRST, 6)
    await worker.output(FIRST, 2, Status.SUCCESS, b"one")
    assert await client.answer() == (1, Status.SUCCESS, b"one")


async def test_nothing_is_assigned_to_a_worker_whose_report_is_not_read_yet(
    it: Rig, worker: ToldWorker, client: Client
) -> None:
    """What is looked up for its containers may take a while, and other inputs come meanwhile."""
    looks, goes_on = threading.Event(), threading.Event()

    def last_numbers(_app_id: str) -> dict[str, int]:
        looks.set()
        goes_on.wait()
        return {}

    it.invocation.workers._last_log_numbers = last_numbers
    it.invocation.workers._resume()  # the time for workers to come back is over
    registering = asyncio.create_task(worker.register(report(FIRST, {1: 0})))
    try:
        await asyncio.to_thread(looks.wait)
        await client.send(0)
        pool = it.invocation.dispatch.functions[FUNCTION].pool
        while not pool.queue:
            await asyncio.sleep(0.01)
    finally:
        goes_on.set()
    await registering
    worker.adopt(FIRST)
    await worker.output(FIRST, 1, Status.SUCCESS, b"once")
    assert await client.answer() == (0, Status.SUCCESS, b"once")
    assert not worker.started
    assert not worker.given
