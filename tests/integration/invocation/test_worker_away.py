"""What is cancelled or stopped while a worker is away takes effect when it is back."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server import workers
from modal._protocol.messages.function import Autoscaler
from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import MODULE, runs, until


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        one = Autoscaler(max_containers=1)
        started.function("fu-note", "program", "note", autoscaler=one)
        started.function("fu-wait", "program", "wait", is_async=True, concurrent_max=100, autoscaler=one)
        started.function("fu-sync", "program", "wait_sync", autoscaler=one)
        yield started


@pytest.mark.parametrize("name", ["fu-wait", "fu-sync"])
async def test_a_cancelled_call(it: Rig, tmp_path: Path, name: str) -> None:
    path = tmp_path / "runs"
    begun = tmp_path / "runs.begun" if name == "fu-wait" else path
    call_id = await it.call(name).spawn.aio(1, str(path))
    await until(lambda: runs(begun)["1"] == 1)
    async with it.worker_away():
        await it.invocation.spawns.cancel(call_id, False)
    await until(lambda: runs(path)["cancelled 1"] == 1)
    await until(lambda: not it.invocation.dispatch.functions[name].pool.assigned)


async def test_a_cancelled_call_whose_container_shall_end(it: Rig, tmp_path: Path) -> None:
    call_id = await it.call("fu-sync").spawn.aio(1, str(tmp_path / "runs"))
    await until(lambda: runs(tmp_path / "runs")["1"] == 1)
    async with it.worker_away():
        await it.invocation.spawns.cancel(call_id, True)
    await until(lambda: it.containers.running[0].ended)
    assert not runs(tmp_path / "runs")["cancelled 1"]


async def test_an_input_that_never_arrived_and_was_cancelled(it: Rig, tmp_path: Path) -> None:
    """It does not keep its place in the container."""
    path = tmp_path / "runs"
    note = it.call("fu-note").remote.aio
    await note(1, str(path))
    pool = it.invocation.dispatch.functions["fu-note"].pool
    async with it.worker_away():
        lost = asyncio.create_task(note(2, str(path)))
        await until(lambda: pool.assigned == 1)
        lost.cancel()
        await asyncio.wait({lost})
        await until(
            lambda: not it.invocation.calls.calls or all(not c.inputs for c in it.invocation.calls.calls.values())
        )
    await until(lambda: not pool.assigned)
    assert await note(3, str(path)) == 3
    assert runs(path) == {"1": 1, "3": 1}
    assert len(it.containers.running) == 1


async def test_a_stopped_app(it: Rig, tmp_path: Path) -> None:
    """Its containers end: gently, so that what runs hears of it."""
    path = tmp_path / "runs"
    remote = asyncio.create_task(it.call("fu-sync").remote.aio(1, str(path)))
    await it.call("fu-note").remote.aio(1, str(tmp_path / "others"))
    await until(lambda: runs(path)["1"] == 1)
    async with it.worker_away():
        stopping = asyncio.create_task(it.invocation.stop_app("ap-1"))
        with pytest.raises(Exception, match="stopped"):
            await remote
    await stopping
    assert [process.ended for process in it.containers.running] == [True, True]
    assert all(process.process.returncode != -signal.SIGKILL for process in it.containers.running)
    assert not it.invocation.dispatch.containers


async def test_an_answer_that_comes_a_second_time(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker counted as lost, or the server was restarted, and has not acknowledged what it has stored."""
    monkeypatch.setattr(workers.Workers, "_ack_soon", lambda _self: None)
    path = tmp_path / "runs"
    function = it.call("fu-note")
    call_id = await function.spawn.aio(1, str(path))
    assert await function.get.aio(call_id) == 1
    await it.restart_server()
    await until(lambda: bool(it.invocation.dispatch.containers))
    container = next(iter(it.invocation.dispatch.containers.values()))
    await until(lambda: not container.tokens)
    assert it.invocation.spawns.pending("fu-note") == 0
    assert it.invocation.app_idle("ap-1")
    assert await function.remote.aio(2, str(path)) == 2
    assert runs(path) == {"1": 1, "2": 1}


async def test_a_worker_that_comes_back_after_it_counted_as_lost(
    it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its input waits for another container by then: it is not run twice."""
    monkeypatch.setattr(workers, "LOST_SECONDS", 0.2)
    path = tmp_path / "runs"
    remote = asyncio.create_task(it.call("fu-note").remote.aio(1, str(path), 2.0))
    await until(lambda: runs(path)["1"] == 1)
    async with it.worker_away():
        await until(lambda: not it.invocation.dispatch.containers)
    assert await remote == 1
    assert runs(path) == {"1": 1}
