"""Generators: their items come once and in order whatever is restarted, and no faster than they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.invocation.rig import Rig, rig
from tests.integration.invocation.test_answers import until

MODULE = """
import pathlib, time

def numbers(count, size=0, path=""):
    for number in range(count):
        if path:
            pathlib.Path(path).write_text(str(number))
        yield (number, b"x" * size)

async def slow_numbers(count):
    import asyncio
    for number in range(count):
        await asyncio.sleep(0.002)
        yield number
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        started.function("fu-numbers", "program", "numbers", is_generator=True)
        started.function("fu-slow", "program", "slow_numbers", is_generator=True, is_async=True, concurrent_max=10)
        yield started


async def test_items_come_in_order(it: Rig) -> None:
    got = [number async for number, _ in it.call("fu-numbers").remote_gen.aio(5000)]
    assert got == list(range(5000))


async def test_a_fast_generator_waits_for_a_slow_client(it: Rig, tmp_path: Path) -> None:
    """64 KiB an item: what is produced ahead of the reader is bounded by a few windows."""
    reached = tmp_path / "reached"
    items = it.call("fu-numbers").remote_gen.aio(2000, 1 << 16, str(reached))
    assert (await anext(items))[0] == 0
    last = -1
    while (now := int(reached.read_text() or -1)) != last:  # until it stands still
        last = now
        await asyncio.sleep(0.5)
    assert last < 400, "the generator ran ahead of its reader"
    got = [number async for number, _ in items]
    assert got == list(range(1, 2000))


async def test_a_client_that_comes_back(it: Rig) -> None:
    """The client's connection is cut again and again: nothing is repeated, nothing lost."""
    got = []
    async for number, _ in it.call("fu-numbers").remote_gen.aio(3000, 1000):
        got.append(number)
        if number % 500 == 250:
            it.cut_clients()
    assert got == list(range(3000))


async def test_a_server_that_is_restarted(it: Rig) -> None:
    got = []
    async for number in it.call("fu-slow").remote_gen.aio(600):
        got.append(number)
        if number in (100, 300):
            await it.restart_server()
    assert got == list(range(600))


async def test_a_worker_connection_that_is_lost(it: Rig) -> None:
    """What the worker sends again is not counted twice."""
    got = []
    async for number in it.call("fu-slow").remote_gen.aio(600):
        got.append(number)
        if number % 200 == 100:
            it.cut()
    assert got == list(range(600))


async def test_a_container_that_dies_in_the_middle(it: Rig) -> None:
    """The generator begins again elsewhere; the items that the client has are left out."""
    got = []
    async for number in it.call("fu-slow").remote_gen.aio(400):
        got.append(number)
        if number == 100:
            await it.containers.running[0].kill()
    assert got == list(range(400))


async def test_leaving_early_ends_the_generator(it: Rig, tmp_path: Path) -> None:
    items = it.call("fu-slow").remote_gen.aio(10**9)
    async for number in items:
        if number == 5:
            break
    await items.aclose()
    function = it.invocation.dispatch.functions["fu-slow"]
    await until(lambda: not function.pool.assigned)
    await until(lambda: not it.invocation.calls.calls)
