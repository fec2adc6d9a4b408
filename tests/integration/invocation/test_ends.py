"""What was being ended when the server was restarted ends when it would have ended, and gets no more to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server import dispatch, workers
from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import runs, until

MODULE = """
import time

async def block(value, path):
    with open(path, "a+") as file:
        file.seek(0)
        first = f"{value}\\n" not in file.readlines()
        file.write(f"{value}\\n")
    if first:
        time.sleep(3600)  # which holds up the event loop: it hears of nothing
    return value
"""
NEVER = 100_000.0  # seconds


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        started.function("fu-block", "program", "block", is_async=True, concurrent_max=10)
        yield started


async def test_a_cancelled_input(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its container does not obey: it is killed, however the server that told it so has ended."""
    monkeypatch.setattr(dispatch, "STOP_GRACE", NEVER)
    monkeypatch.setattr(dispatch, "UNANSWERED_SECONDS", NEVER)  # of the first server
    call = asyncio.create_task(it.call("fu-block").remote.aio(1, str(tmp_path / "runs")))
    await until(lambda: runs(tmp_path / "runs")["1"] == 1)
    call.cancel()
    (cell,) = it.agent.cells.values()
    await until(lambda: bool(cell.report().cancelled))
    told_before = time.monotonic()
    monkeypatch.setattr(dispatch, "UNANSWERED_SECONDS", 2.0)
    await it.restart_server()
    await until(lambda: cell.container_id in it.invocation.dispatch.containers or it.containers.running[0].ended)
    for container in it.invocation.dispatch.containers.values():
        assert all(since < told_before for since in container.cancelled.values())
    await until(lambda: it.containers.running[0].ended)
    await it.invocation.stop_app("ap-1")


async def test_a_container_that_is_stopped(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had goes elsewhere, at the restarted server too."""
    path = str(tmp_path / "runs")
    monkeypatch.setattr(workers, "STOP_GRACE", 5.0)
    monkeypatch.setattr(dispatch, "STOP_GRACE", NEVER)
    call = asyncio.create_task(it.call("fu-block").remote.aio(1, path))
    await until(lambda: runs(tmp_path / "runs")["1"] == 1)
    (cell,) = it.agent.cells.values()
    it.invocation.workers.stop_container(cell.container_id)
    await until(lambda: cell.report().ends_in >= 0)
    ends_at = cell.ends_at
    await it.restart_server()
    (tmp_path / "others").write_text("2\n")
    assert await it.call("fu-block").remote.aio(2, str(tmp_path / "others")) == 2
    assert len(it.containers.running) == 2
    assert cell.ends_at == ends_at
    await until(lambda: it.containers.running[0].ended)
    assert await call == 1  # begun anew
    await it.invocation.stop_app("ap-1", force=True)


async def test_what_a_new_worker_is_to_know(it: Rig, tmp_path: Path) -> None:
    """It is written down when the container was asked."""
    call = asyncio.create_task(it.call("fu-block").remote.aio(1, str(tmp_path / "runs")))
    await until(lambda: runs(tmp_path / "runs")["1"] == 1)
    (cell,) = it.agent.cells.values()
    it.invocation.workers.stop_container(cell.container_id)
    await until(lambda: cell.report().ends_in >= 0)
    later = it.agent.recalled(cell.container_id)
    assert later is not None
    assert (later.ends_at, later.stop_reason) == (cell.ends_at, "stopped by the user")
    assert later.report().end_reason == "stopped by the user"
    stopping = asyncio.create_task(it.invocation.stop_app("ap-1", force=True))
    with pytest.raises(Exception, match="stopped"):
        await call
    await stopping
