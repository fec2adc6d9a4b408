"""The express way between server and container: it is taken, and nothing is lost or run twice whatever ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server.dispatch import Container
from intermodal.server.express import ExpressLink
from modal._protocol.messages.function import Autoscaler
from modal._protocol.messages.worker import RunInputs
from modal.exception import RemoteError
from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import runs, until

MODULE = """
import os, subprocess, time

def note(value, path, seconds=0.0, say="", once=False):
    with open(path, "a") as file:
        file.write(f"{value}\\n")
    if once and open(path).read().split("\\n").count(value) > 1:
        seconds = 0.0
    if say == "raw":
        os.write(1, f"raw {value}\\n".encode())
    elif say == "child":
        subprocess.run(["echo", f"child {value}"])
    elif say:
        print(say, value)
    if seconds:
        time.sleep(seconds)
    if value == "raise":
        raise LookupError("no such thing")
    return value

def hold(value, path, gate):
    note(value, path)
    while not os.path.exists(gate):
        time.sleep(0.01)
    return value

async def note_async(value, path, seconds=0.0):
    note(value, path)
    import asyncio
    await asyncio.sleep(seconds)
    return value
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        one = Autoscaler(max_containers=1)
        started.function("fu-note", "program", "note", autoscaler=one)
        started.function("fu-hold", "program", "hold", autoscaler=one)
        started.function("fu-async", "program", "note_async", autoscaler=one, is_async=True, concurrent_max=10)
        started.function("fu-threads", "program", "note", autoscaler=one, concurrent_max=10)
        yield started


def only(it: Rig, function_id: str = "fu-note") -> Container:
    every = it.invocation.dispatch.containers.values()
    (container,) = [one for one in every if one.function.function_id == function_id]
    return container


def given(it: Rig) -> int:
    """Inputs that containers got by the worker."""
    return sum(cell.activity()[1] for cell in it.agent.cells.values())


async def warm(it: Rig, function_id: str, path: Path) -> None:
    """Call until the way is open. On a machine that is busy an input is not always quick."""
    note = it.call(function_id).remote.aio
    async with asyncio.timeout(250):
        number = 0
        while True:
            number -= 1
            assert await note(number, str(path)) == number
            container = only(it, function_id)
            if container.express is not None and container.express.token:
                return


@pytest.mark.parametrize("function_id", ["fu-note", "fu-async", "fu-threads"])
async def test_quick_calls_pass_no_worker(it: Rig, tmp_path: Path, function_id: str) -> None:
    path = tmp_path / "runs"
    await warm(it, function_id, path)
    note = it.call(function_id).remote.aio
    quick = n = 0
    async with asyncio.timeout(250):
        while quick < 50 or n < 300:  # on a machine that is busy not every call is quick
            before = given(it)
            assert await note(n, str(path)) == n
            quick += given(it) == before
            n += 1
    assert set(runs(path).values()) == {1}
    with pytest.raises(LookupError, match="no such thing"):
        await note("raise", str(path), 0.0)


async def test_what_takes_long_is_known_to_the_worker(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    (tmp_path / "open").touch()
    hold = it.call("fu-hold").remote.aio
    assert await hold(-1, str(path), str(tmp_path / "open")) == -1
    (cell,) = it.agent.cells.values()
    for n in range(3):
        async with asyncio.timeout(250):
            while not (way := only(it, "fu-hold").express) or not way.token:
                await hold("warm", str(path), str(tmp_path / "open"))
        before = given(it)
        slow = asyncio.create_task(hold(f"slow {n}", str(path), str(tmp_path / f"gate {n}")))
        await until(lambda: cell.activity()[0])
        assert given(it) > before
        (tmp_path / f"gate {n}").touch()
        assert await slow == f"slow {n}"
        await until(lambda: not cell.activity()[0])
    assert all(count == 1 for value, count in runs(path).items() if value.startswith("slow"))


async def test_an_input_that_came_by_it_can_be_cancelled(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    await warm(it, "fu-note", path)
    slow = asyncio.create_task(it.call("fu-note").remote.aio("slow", str(path), 3600))
    await until(lambda: runs(path)["slow"] == 1)
    (held,) = only(it).tokens.values()
    it.invocation.calls.cancel_inputs([held])
    with pytest.raises(RemoteError, match="cancelled"):
        await slow
    await until(lambda: not only(it).tokens)
    assert await it.call("fu-note").remote.aio(1, str(path)) == 1


@pytest.mark.parametrize("way", ["said", "raw", "child"])
async def test_what_was_printed_comes_before_the_output(it: Rig, tmp_path: Path, way: str) -> None:
    path = tmp_path / "runs"
    note = it.call("fu-note").remote.aio
    for n in range(5):
        await warm(it, "fu-note", path)
        assert await note(n, str(path), 0.0, way) == n
        assert f"{way} {n}\n" in "".join(entry.text for entry in it.logs)


async def test_a_server_that_ends(it: Rig, tmp_path: Path) -> None:
    """Whatever is under way: each input runs once, and each caller has its value."""
    path = tmp_path / "runs"
    chance = random.Random(7)
    note = it.call("fu-note").remote.aio
    total = 0
    for _life in range(6):
        await warm(it, "fu-note", tmp_path / "warm")

        async def calls(first: int) -> None:
            for n in range(first, first + 150):
                assert await note(n, str(path), 0.02 if n % 50 == 49 else 0.0) == n

        working = asyncio.create_task(calls(total))
        until_then = total + chance.randrange(10, 140)
        await until(lambda least=until_then: len(runs(path)) >= least)  # type: ignore[misc]
        await it.restart_server()
        await working
        total += 150
    assert len(runs(path)) == total
    assert set(runs(path).values()) == {1}


async def test_connections_that_break(it: Rig, tmp_path: Path) -> None:
    """The express way, the worker's connection, the clients': in any order, many times."""
    path = tmp_path / "runs"
    chance = random.Random(11)
    note = it.call("fu-note").remote.aio
    await warm(it, "fu-note", tmp_path / "warm")
    for n in range(600):
        waiting = asyncio.create_task(note(n, str(path), 0.015 if n % 60 == 59 else 0.0))
        for _turn in range(chance.randrange(12)):
            await asyncio.sleep(0)
        if n % 20 == 10:
            chance.choice([it.cut_express, it.cut_clients, it.cut, lambda: None])()
        assert await waiting == n
    assert len(runs(path)) == 600
    assert set(runs(path).values()) == {1}


async def test_a_worker_that_is_away(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    note = it.call("fu-note").remote.aio
    for n in range(3):
        await warm(it, "fu-note", tmp_path / "warm")
        slow = asyncio.create_task(note(f"slow {n}", str(path), 0.3))
        await until(lambda n=n: runs(path)[f"slow {n}"] == 1)  # type: ignore[misc]
        async with it.worker_away():
            later = asyncio.create_task(note(n, str(path)))
            await asyncio.sleep(0)
        assert await slow == f"slow {n}"
        assert await later == n
    assert set(runs(path).values()) == {1}


async def test_a_container_that_dies(it: Rig, tmp_path: Path) -> None:
    """What ran there runs again elsewhere; what had its output before does not."""
    path = tmp_path / "runs"
    await warm(it, "fu-note", path)
    slow = asyncio.create_task(it.call("fu-note").remote.aio("slow", str(path), 3600, "", True))
    await until(lambda: runs(path)["slow"] == 1)
    await it.containers.running[-1].kill()
    assert await slow == "slow"
    found = runs(path)
    assert found.pop("slow") == 2
    assert set(found.values()) == {1}


async def test_answers_are_not_kept_for_ever(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container hears of each output that has arrived by this way; of the newest of a client with its next call."""
    sent: set[int] = set()
    acknowledged: set[int] = set()
    send, acknowledge = ExpressLink.send, ExpressLink.acknowledge

    def note_send(link: ExpressLink, message: RunInputs) -> None:
        sent.update(message.tokens)
        send(link, message)

    def note_acknowledge(link: ExpressLink) -> None:
        acknowledged.update(link.arrived)
        acknowledge(link)

    monkeypatch.setattr(ExpressLink, "send", note_send)
    monkeypatch.setattr(ExpressLink, "acknowledge", note_acknowledge)
    path = tmp_path / "runs"
    await warm(it, "fu-note", path)
    note = it.call("fu-note").remote.aio
    async with asyncio.timeout(250):
        n = 0
        while n < 50 or len(acknowledged) <= 10:  # on a machine that is busy not every call goes by it
            await note(n, str(path))
            n += 1
    await until(lambda: len(sent - acknowledged) <= 2)  # the newest of each of the two clients
    assert acknowledged <= sent
