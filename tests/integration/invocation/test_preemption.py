"""Containers that are asked to end: while they start, and because their worker is drained."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server.live import Container
from modal._protocol import aio
from modal._protocol.errors import Fault
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.message import Message
from modal._protocol.messages.fleet import DrainAwait, DrainedWorker, WorkerDrain, WorkersDrained, WorkerUndrain
from modal._protocol.messages.wire import Hello
from modal._protocol.messages.worker import ContainerSpec
from tests.integration.invocation.rig import Home, PlainAgent, PlainContainers, PlainHandover, Rig, rig
from tests.integration.invocation.test_limits import MODULE, lines, publish, until

# Interrupted while it is imported, the first times.
FRAGILE = """
import os, pathlib, signal, time

path = pathlib.Path(__file__).with_name("imports")
with path.open("a") as file:
    file.write("imported\\n")
if len(path.read_text().splitlines()) <= {times}:
    try:
        {act}
        time.sleep(60)
    except {caught} as error:
        raise RuntimeError("what a library makes of it") from error

def f():
    return "alive"
"""
BY_SIGNAL = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        yield started


def fragile(it: Rig, times: int, act: str = BY_SIGNAL, caught: str = "ValueError") -> None:
    it.write("fragile", FRAGILE.format(times=times, act=act, caught=caught))
    it.function("fu-fragile", "fragile", "f")


@pytest.mark.parametrize("caught", ["ValueError", "KeyboardInterrupt"])
async def test_an_interrupted_start_is_no_failure(it: Rig, caught: str) -> None:
    """Whatever the code that was interrupted makes of it."""
    fragile(it, 2, caught=caught)
    assert await it.call("fu-fragile").remote.aio() == "alive"
    assert lines(it.source / "imports") == ["imported"] * 3


async def test_starts_that_are_interrupted_again_and_again_become_rare(
    it: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from intermodal.server import failures

    monkeypatch.setattr(failures, "BACKOFF_SECONDS", 3600.0)
    monkeypatch.setattr(failures, "BACKOFF_MAX", 3600.0)
    fragile(it, 1000)
    waiting = asyncio.create_task(it.call("fu-fragile").remote.aio())
    await until(lambda: it.invocation.notices("ap-1"))
    assert "f crash-loops (" in it.invocation.notices("ap-1")[0]
    assert len(it.containers.running) <= 4
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_code_that_raises_keyboard_interrupt_while_it_starts_has_failed(it: Rig) -> None:
    fragile(it, 1000, act="raise KeyboardInterrupt('by hand')")
    with pytest.raises(BaseException, match="by hand"):
        await it.call("fu-fragile").remote.aio()


# -- containers that say nothing any more


async def test_a_container_that_is_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by native code that never gives the interpreter's lock back: it is ended, the log says why, and its input runs
    again."""
    from intermodal.worker import agent, liveness

    monkeypatch.setattr(liveness, "HEARTBEAT_SECONDS", 3.0)
    monkeypatch.setattr(agent, "STATS_SECONDS", 0.5)
    async with rig() as it:
        it.write("program", MODULE)
        prepare = it.invocation.workers._prepare

        async def often(container: Container) -> ContainerSpec:
            spec = await prepare(container)
            spec.runner.heartbeat = 1.0
            return spec

        monkeypatch.setattr(it.invocation.workers, "_prepare", often)
        path = tmp_path / "runs"
        assert await it.call(publish(it, "stop_itself")).remote.aio(str(path)) == "alive"
        assert len(lines(path)) >= 2
        said = "heartbeat timeout: the container has not been heard of for 3 seconds"
        await until(lambda: any(said in entry.text for entry in it.logs))


# -- drained workers


class Operator:
    """Asks as `intermodal drain` does: with a connection for each question."""

    def __init__(self, it: Rig) -> None:
        self._it = it

    async def ask(self, message: Message) -> list[DrainedWorker]:
        connection = await aio.connect(self._it.address, Hello("client", VERSION_MIN, VERSION_MAX))
        try:
            return (await connection.request(message, WorkersDrained)).workers
        finally:
            connection.close()

    async def emptied(self, worker_id: str) -> list[int]:
        """How many containers it has at last."""
        return [worker.containers for worker in await self.ask(DrainAwait(200.0, [worker_id]))]


@pytest.fixture
def operator(it: Rig) -> Operator:
    return Operator(it)


async def test_inputs_wait_while_the_only_worker_is_drained(it: Rig, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    call = asyncio.create_task(it.call(publish(it, "slow_at_first")).remote.aio(str(path)))
    await until(lambda: len(lines(path)) == 1)
    (drained,) = await operator.ask(WorkerDrain())
    assert drained.containers == 1
    assert await operator.emptied(drained.worker_id) == [0]
    assert it.invocation.describe()[0]["drained"]
    await until(lambda: it.invocation.dispatch.functions["fu-slow_at_first"].pool.queue)
    await it.restart_server()
    await until(lambda: it.invocation.describe())
    assert it.invocation.describe()[0]["drained"], "it stays so when the server is started again"
    second = asyncio.create_task(it.call(publish(it, "sleep")).remote.aio(0.01))
    await until(lambda: "drained" in " ".join(it.invocation.notices("ap-1")))
    assert len(it.containers.running) == 1
    with pytest.raises(Fault, match="there is no worker elsewhere among these: "):
        await operator.ask(WorkerDrain("elsewhere"))
    path.write_text("ran\nran\nran\n")
    assert await operator.ask(WorkerUndrain()) == []
    assert await call == "done"
    assert await second == 0.01
    with pytest.raises(Fault, match="no worker is drained"):
        await operator.ask(WorkerUndrain())


async def test_inputs_start_anew_on_another_worker(it: Rig, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    call = asyncio.create_task(it.call(publish(it, "slow_at_first")).remote.aio(str(path)))
    await until(lambda: len(lines(path)) == 1)
    (first,) = it.invocation.workers.links
    other = PlainContainers(it.source)
    with tempfile.TemporaryDirectory(prefix="im-rig-", dir="/tmp") as home:  # sockets' paths must be short
        agent = PlainAgent(Home(Path(home)), it.address, other, PlainHandover(lambda: it.invocation))
        running = asyncio.create_task(agent.run())
        try:
            await until(lambda: len(it.invocation.workers.links) == 2)
            with pytest.raises(Fault, match="say which worker is meant: "):
                await operator.ask(WorkerDrain())
            path.write_text("ran\nran\n")
            await operator.ask(WorkerDrain(first))
            assert await call == "done"
            assert len(other.running) == 1
            await operator.ask(WorkerUndrain())
        finally:
            agent.stop()
            await running


async def test_what_is_at_work_may_finish_first(it: Rig, operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    call = asyncio.create_task(it.call(publish(it, "who")).remote.aio(1.0, str(path)))
    await until(lambda: len(lines(path)) == 1)
    (drained,) = await operator.ask(WorkerDrain("", 60.0))
    await call
    assert len(lines(path)) == 1
    assert await operator.emptied(drained.worker_id) == [0]
