"""Answers reach their callers once, whatever is lost on the way; who stops waiting stops the work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from intermodal.server import delivery
from tests.integration.invocation.rig import Rig, rig

MODULE = """
import os, time

def note(value, path, seconds=0.0):
    with open(path, "a") as file:
        file.write(f"{value}\\n")
    time.sleep(seconds)
    return value

def stay_after_three(value, path):
    return note(value, path, 3600 if value > 3 else 0)

async def wait(value, path):
    import asyncio
    try:
        note(value, path + ".begun")
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        note(f"cancelled {value}", path)
        raise

def wait_sync(value, path):
    import modal
    try:
        note(value, path)
        time.sleep(3600)
    except modal.exception.InputCancellation:
        note(f"cancelled {value}", path)
        raise
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        started.function("fu-note", "program", "note")
        started.function("fu-stay", "program", "stay_after_three")
        started.function("fu-wait", "program", "wait", is_async=True, concurrent_max=100)
        started.function("fu-sync", "program", "wait_sync")
        yield started


def runs(path: Path) -> Counter[str]:
    """How often each value was noted."""
    return Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()


async def until(true: Callable[[], bool], seconds: float = 100.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def test_an_answer_that_was_lost_is_sent_again(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks at the moment of each answer: the call is not run a second time."""
    path = tmp_path / "runs"
    note = it.call("fu-note").remote.aio
    await note(-1, str(path))
    answer = delivery.Delivery._answer
    lost: list[int] = []

    def lose(self: delivery.Delivery, call: object, connection: object) -> None:
        if len(lost) % 2 == 0:
            connection.respond = lambda *_: None  # type: ignore[attr-defined]
            asyncio.get_running_loop().call_soon(connection.abort)  # type: ignore[attr-defined]
        lost.append(1)
        answer(self, call, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(delivery.Delivery, "_answer", lose)
    for value in range(5):
        assert await note(value, str(path)) == value
    assert len(lost) >= 10
    assert set(runs(path).values()) == {1}


async def test_answers_are_kept_until_the_client_has_them_and_no_longer(it: Rig, tmp_path: Path) -> None:
    function = it.call("fu-note")
    for value in range(100):
        await function.remote.aio(value, str(tmp_path / "runs"))
    assert len(it.invocation.calls.calls) == 1  # the last one: the next call would tell
    got = [value async for value in function.map.aio(range(3000), kwargs={"path": str(tmp_path / "more")})]
    assert got == list(range(3000))
    await until(lambda: len(it.invocation.calls.calls) == 1)
    container = next(iter(it.invocation.dispatch.containers.values()))
    assert len(container.unsafe) <= 1


async def test_a_restarted_server_asks_nobody_to_run_again_what_was_finished(it: Rig, tmp_path: Path) -> None:
    """Answers that were with the dead server alone are with the worker still."""
    path = tmp_path / "runs"
    function = it.call("fu-note")
    await function.remote.aio(-1, str(path))
    waiting = [asyncio.create_task(function.remote.aio(n, str(path), 0.02)) for n in range(40)]
    for done in (5, 15, 25):
        await until(lambda done=done: len(runs(path)) >= done)  # type: ignore[misc]
        await it.restart_server()
    assert await asyncio.gather(*waiting) == list(range(40))
    assert set(runs(path).values()) == {1}


async def test_a_map_whose_connections_are_cut(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    got = []
    async for value in it.call("fu-note").map.aio(range(2000), kwargs={"path": str(path)}):
        got.append(value)
        if value % 400 == 100:
            it.cut_clients()
        elif value % 400 == 300:
            it.cut()
    assert got == list(range(2000))
    assert set(runs(path).values()) == {1}


async def test_a_map_whose_server_is_restarted(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    got = []
    async for value in it.call("fu-note").map.aio(range(1500), kwargs={"path": str(path)}):
        got.append(value)
        if value % 500 == 250:
            await it.restart_server()
    assert got == list(range(1500))
    assert set(runs(path).values()) == {1}


async def test_a_cancelled_task_cancels_its_input_alone(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "cancelled"
    function = it.call("fu-wait")
    tasks = [asyncio.create_task(function.remote.aio(n, str(path))) for n in range(3)]
    pool = it.invocation.dispatch.functions["fu-wait"].pool
    await until(lambda: len(runs(tmp_path / "cancelled.begun")) == 3)
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    await until(lambda: runs(path) == {"cancelled 1": 1})
    await until(lambda: pool.assigned == 2)
    assert not tasks[0].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: sum(runs(path).values()) == 3)


async def test_an_interrupted_call_is_cancelled(it: Rig, tmp_path: Path) -> None:
    """What Ctrl-C does to `.remote`: the frame CANCEL, and the container goes on with the next input."""
    path = tmp_path / "runs"
    function = it.call("fu-sync")
    task = asyncio.create_task(function.remote.aio(1, str(path)))
    await until(lambda: runs(path)["1"] == 1)
    task.cancel()
    await until(lambda: runs(path)["cancelled 1"] == 1)
    assert await it.call("fu-note").remote.aio(2, str(path)) == 2
    again = asyncio.create_task(function.remote.aio(3, str(path)))
    await until(lambda: runs(path)["3"] == 1)
    assert len([c for c in it.invocation.dispatch.containers.values() if c.function.function_id == "fu-sync"]) == 1
    again.cancel()
    await asyncio.wait({again})


async def test_leaving_a_map_cancels_what_is_left(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    results = it.call("fu-stay").map.aio(range(200), kwargs={"path": str(path)})
    async for value in results:
        if value == 3:
            break
    await results.aclose()
    pool = it.invocation.dispatch.functions["fu-stay"].pool
    await until(lambda: not pool.assigned and not len(pool.queue))
    assert len(runs(path)) < 60
    await until(lambda: not it.invocation.calls.calls)


async def test_an_adopted_input_whose_container_dies(it: Rig, tmp_path: Path) -> None:
    """The restarted server knows it by name alone: its arguments come from the client, or from the disk."""
    path = tmp_path / "runs"
    function = it.call("fu-note")
    remote = asyncio.create_task(function.remote.aio(1, str(path), 3.0))
    mapped = asyncio.create_task(_all(function.map.aio([2], kwargs={"path": str(path), "seconds": 3.0})))
    spawned = await function.spawn.aio(3, str(path), 3.0)
    await until(lambda: len(runs(path)) == 3)
    await it.restart_server()
    await until(lambda: len(it.invocation.dispatch.containers) == 3)
    for process in it.containers.running:
        await process.kill()
    assert await remote == 1
    assert await mapped == [2]
    assert await function.get.aio(spawned) == 3


async def _all(results: AsyncIterator[int]) -> list[int]:
    return [result async for result in results]
