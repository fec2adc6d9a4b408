"""The documented limits on inputs: 2,000 pending, 25,000 in all, 1,000,000 spawned, 1,000 of a map under way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server import calls, spawns
from modal._protocol.messages.function import Autoscaler
from modal.exception import RemoteError, ResourceExhaustedError
from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import _all, until

MODULE = """
import os, time

def stay(_value, path):
    while not os.path.exists(path):
        time.sleep(0.02)
    return _value
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        started.function("fu-stay", "program", "stay", autoscaler=Autoscaler(max_containers=1))
        yield started


def test_the_documented_numbers() -> None:
    assert (calls.PENDING_LIMIT, calls.TOTAL_LIMIT, spawns.SPAWN_LIMIT) == (2_000, 25_000, 1_000_000)


async def test_pending_inputs_and_those_of_a_map(it: Rig, tmp_path: Path) -> None:
    """A map has no more than 1,000 under way, however long it is; then 2,000 wait, and one more is refused."""
    path = str(tmp_path / "go")
    function = it.call("fu-stay")
    pool = it.invocation.dispatch.functions["fu-stay"].pool
    endless = [
        asyncio.create_task(anext(aiter(function.map.aio(itertools.count(), kwargs={"path": path})))) for _ in range(2)
    ]
    await until(lambda: len(pool.queue) + pool.assigned == 2000 and bool(pool.assigned))
    await asyncio.sleep(0.1)  # more would come now
    assert len(pool.queue) + pool.assigned == 2000
    more = [asyncio.create_task(function.remote.aio(n, path)) for n in range(pool.assigned)]
    await until(lambda: len(pool.queue) == 2000)
    for refused in (function.remote.aio(0, path), anext(aiter(function.map.aio([1], kwargs={"path": path})))):
        with pytest.raises(ResourceExhaustedError, match=r"2000 pending .* try again later, or use \.spawn"):
            await refused
    call_id = await function.spawn.aio(7, path)  # has a limit of its own
    for task in endless:
        task.cancel()
    await asyncio.gather(*endless, return_exceptions=True)
    (tmp_path / "go").touch()
    assert await asyncio.gather(*more) == list(range(len(more)))
    assert await function.get.aio(call_id) == 7
    assert await function.remote.aio(8, path) == 8


async def test_spawned_inputs_leave_room_for_calls(it: Rig, tmp_path: Path) -> None:
    """More of them are in memory than may be pending otherwise."""
    path = str(tmp_path / "go")
    function = it.call("fu-stay")
    await function.spawn_map.aio(range(2100), itertools.repeat(path))
    pool = it.invocation.dispatch.functions["fu-stay"].pool
    await until(lambda: len(pool.queue) > 1900)
    waiting = [asyncio.create_task(function.remote.aio(n, path)) for n in range(150)]
    mapped = asyncio.create_task(_all(function.map.aio(range(300), kwargs={"path": path})))
    await until(lambda: len(pool.queue) + pool.assigned >= 2000 + 450)
    (tmp_path / "go").touch()
    assert await asyncio.gather(*waiting) == list(range(150))
    assert await mapped == list(range(300))
    await until(lambda: it.invocation.spawns.pending("fu-stay") == 0)
    assert it.invocation.spawns.in_memory("fu-stay") == 0


async def test_inputs_in_all(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TOTAL_LIMIT", 500)
    path = str(tmp_path / "go")
    function = it.call("fu-stay")
    with pytest.raises(ResourceExhaustedError, match="500 in all are taken: try again later"):
        await anext(aiter(function.map.aio(range(501), kwargs={"path": path})))
    pool = it.invocation.dispatch.functions["fu-stay"].pool
    await until(lambda: not len(pool.queue))
    (tmp_path / "go").touch()
    assert [value async for value in function.map.aio(range(400), kwargs={"path": path})] == list(range(400))


async def test_spawned_inputs(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused leaves nothing; there is room again when some have their results. Also after a restart."""
    monkeypatch.setattr(spawns, "SPAWN_LIMIT", 3000)
    path = str(tmp_path / "go")
    function = it.call("fu-stay")
    await function.spawn_map.aio(range(3000), itertools.repeat(path))
    for again in range(2):
        with pytest.raises(ResourceExhaustedError, match=r"3000 spawned inputs without a result.*try again later"):
            await function.spawn.aio(0, path)
        if not again:
            await it.restart_server()
    (tmp_path / "go").touch()
    await until(lambda: it.invocation.spawns.pending("fu-stay") == 0)
    assert await function.get.aio(await function.spawn.aio(5, path)) == 5
    assert await it.store.calls.count_pending() == {}


async def test_cancelled_inputs_make_room(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in memory and those on disk alike, and none of them runs any more."""
    monkeypatch.setattr(spawns, "SPAWN_LIMIT", 12_000)
    path = str(tmp_path / "go")
    function = it.call("fu-stay")
    call_id = await function.spawn_map.aio(range(12_000), itertools.repeat(path))
    state = it.invocation.spawns
    await until(lambda: it.invocation.dispatch.functions["fu-stay"].pool.assigned > 0)
    await state.cancel(call_id, False)
    assert state.pending("fu-stay") == 0
    assert await it.store.calls.count_pending() == {}
    with pytest.raises(RemoteError, match="cancelled"):
        await function.get.aio(call_id, 11_999)
    (tmp_path / "go").touch()
    assert await function.get.aio(await function.spawn.aio(5, path)) == 5
    assert state.pending("fu-stay") == 0
    await until(lambda: it.invocation.app_idle("ap-1"))


async def test_a_server_that_dies_while_it_cancels_or_stops(it: Rig, tmp_path: Path) -> None:
    """The next one goes on: who waits hears of it."""
    path = str(tmp_path / "go")
    it.function("fu-other", "program", "stay", autoscaler=Autoscaler(max_containers=1))
    cancelled = await it.call("fu-stay").spawn_map.aio(range(20), itertools.repeat(path))
    stopped = await it.call("fu-other").spawn_map.aio(range(20), itertools.repeat(path))
    await it.store.database.execute("UPDATE calls SET state = 1 WHERE call_id = ?", (cancelled,))
    del it._published["fu-other"]
    await it.restart_server()

    async def is_live(function_id: str) -> bool:
        return function_id == "fu-stay"

    await it.invocation.spawns.settle_stopped(is_live)
    for call_id, what in ((cancelled, "cancelled"), (stopped, "the app was stopped")):
        with pytest.raises(Exception, match=what):
            await it.call("fu-stay").get.aio(call_id, 19)
    assert await it.store.calls.count_pending() == {}
    (tmp_path / "go").touch()
    assert await it.call("fu-stay").remote.aio(3, path) == 3
