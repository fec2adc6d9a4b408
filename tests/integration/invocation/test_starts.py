"""Containers that hang while they start: their callers hear of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from intermodal.worker import agent, liveness
from intermodal.worker.containers.processes import resources_of
from modal.exception import ExecutionError, FunctionTimeoutError
from tests.integration.invocation.rig import PlainProcess, Rig, rig
from tests.integration.invocation.test_limits import lines, until

LIMIT = 5  # seconds: a start takes a fraction of one, on a slow machine too

# What the module does while it is imported, the first so many times.
SLOW_IMPORT = """
import os, pathlib, signal, time

path = pathlib.Path(__file__).with_name("imports")
with path.open("a") as file:
    file.write("imported\\n")

def stay():
    {act}

if len(path.read_text().splitlines()) <= {times}:
    stay()

def f():
    return "alive"
"""

SLOW_HOOK = """
import asyncio, modal

app = modal.App()

async def never():
    await asyncio.Event().wait()

@app.cls()
class Model:
    @modal.enter()
    async def load(self):
        await never()

    @modal.method()
    async def f(self):
        return 1
"""


@pytest.fixture
async def it(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setenv(liveness.START_SETTING, str(LIMIT))
    async with rig() as started:
        yield started


def slow(it: Rig, act: str, times: int, **fields: Any) -> None:
    it.write("slow", SLOW_IMPORT.format(act=act, times=times))
    it.function("fu-slow", "slow", "f", timeout=1, **fields)


async def test_an_import_that_hangs(it: Rig) -> None:
    slow(it, "time.sleep(1000)", 1000)
    with pytest.raises(FunctionTimeoutError, match=rf"not ready within {LIMIT} seconds: .* in stay \(slow.py:9\)"):
        await it.call("fu-slow").remote.aio()
    await until(lambda: any("in stay" in entry.text for entry in it.logs))
    assert lines(it.source / "imports") == ["imported"]


async def test_an_import_that_swallows_everything(it: Rig) -> None:
    """The limit holds whatever the user's code makes of interruptions: the process ends."""
    act = "while True:\n        try:\n            time.sleep(0.01)\n        except BaseException:\n            pass"
    slow(it, act, 1000)
    with pytest.raises(FunctionTimeoutError, match="in stay"):
        await it.call("fu-slow").remote.aio()


async def test_a_function_that_has_worked_before_is_tried_again(it: Rig) -> None:
    slow(it, "time.sleep(1000)", 0)
    call = it.call("fu-slow")
    assert await call.remote.aio() == "alive"
    it.invocation.dispatch.functions["fu-slow"].ever_ready = True
    (it.source / "imports").unlink()
    it.write("slow", SLOW_IMPORT.format(act="time.sleep(1000)", times=1))
    for running in it.containers.running:
        await running.kill()
    await until(lambda: not it.invocation.dispatch.containers)
    assert await call.remote.aio() == "alive"
    assert lines(it.source / "imports") == ["imported"] * 2


async def test_a_hook_of_an_async_class_that_hangs(it: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(liveness.START_SETTING, "20")  # its module imports modal, which takes a while
    it.write("hook", SLOW_HOOK)
    it.function("fu-hook", "hook", "Model", timeout=1, is_class=True, is_async=True)
    with pytest.raises(FunctionTimeoutError, match=r"in never \(hook.py"):
        await it.call("fu-hook").remote.aio()
    await until(lambda: any("in never" in entry.text for entry in it.logs))


async def test_a_container_that_is_stopped_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGSTOP: it says nothing and does nothing."""
    monkeypatch.setattr(liveness, "FROZEN_SECONDS", 1.0)
    monkeypatch.setattr(agent, "STATS_SECONDS", 0.2)
    monkeypatch.setattr(PlainProcess, "usage", lambda self: resources_of(self.process.pid))
    async with rig() as it:
        slow(it, "os.kill(os.getpid(), signal.SIGSTOP)", 1000)
        with pytest.raises(ExecutionError, match="could not be started: it has not been heard of for 1 seconds while"):
            await it.call("fu-slow").remote.aio()


async def test_one_that_is_stopped_at_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a deployed app: the caller waits for the next attempt."""
    monkeypatch.setattr(liveness, "FROZEN_SECONDS", 1.0)
    monkeypatch.setattr(agent, "STATS_SECONDS", 0.2)
    monkeypatch.setattr(PlainProcess, "usage", lambda self: resources_of(self.process.pid))
    async with rig() as it:
        slow(it, "os.kill(os.getpid(), signal.SIGSTOP)", 1)
        it.invocation.dispatch.functions["fu-slow"].ephemeral = False
        assert await it.call("fu-slow").remote.aio() == "alive"


@pytest.mark.parametrize("act", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(3)"])
@pytest.mark.parametrize("times", [2, 1000])
async def test_one_that_dies_while_it_starts(it: Rig, monkeypatch: pytest.MonkeyPatch, act: str, times: int) -> None:
    """Also the first one of an app that is not deployed: it is tried again, but not for ever."""
    monkeypatch.setenv(liveness.START_SETTING, "60")
    slow(it, act, times)
    if times == 2:
        assert await it.call("fu-slow").remote.aio() == "alive"
    else:
        with pytest.raises(ExecutionError, match=r"(killed by SIGKILL|exited with code 3) while it started"):
            await it.call("fu-slow").remote.aio()
    assert lines(it.source / "imports") == ["imported"] * 3
