"""Batched functions: across callers, in time, and each caller its own result or exception."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from modal._protocol.messages.function import Autoscaler, Retry
from modal.exception import FunctionTimeoutError
from tests.integration.invocation.rig import Rig, rig

MODULE = """
import asyncio, os, time

async def add(xs, ys=5):
    assert isinstance(xs, list) and isinstance(ys, list)
    return [(x + y, len(xs)) for x, y in zip(xs, ys)]

def tell_size(xs):
    return [len(xs)] * len(xs)

def choose(xs):
    return [ValueError(f"no {x}") if x % 2 else x for x in xs]

def short(xs):
    return xs[:-1]

def no_list(xs):
    return 7

def fail(xs):
    raise KeyError(len(xs))

async def sleep(xs):
    await asyncio.sleep(max(xs))
    return xs

def flaky(paths):
    path = paths[0]
    with open(path, "a") as file:
        file.write(f"{len(paths)}\\n")
    if len(open(path).readlines()) < 3:
        raise RuntimeError("not yet")
    return [len(paths)] * len(paths)
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        yield started


WAIT_MS = 60_000  # for a batch that fills up: it runs at once then


def batched(it: Rig, name: str, size: int = 4, wait_ms: int = WAIT_MS, **fields: object) -> None:
    asynchronous = name in ("add", "sleep")
    it.function(f"fu-{name}", "program", name, batch_size=size, batch_wait_ms=wait_ms, is_async=asynchronous, **fields)


async def test_inputs_of_several_callers_run_together(it: Rig) -> None:
    batched(it, "add")
    callers = [it.call("fu-add") for _ in range(4)]
    got = await asyncio.gather(*[caller.remote.aio(n, 10 * n) for n, caller in enumerate(callers)])
    assert got == [(11 * n, 4) for n in range(4)]
    it.function("fu-alone", "program", "add", batch_size=4, batch_wait_ms=300, is_async=True)
    assert await it.call("fu-alone").remote.aio(1) == (6, 1)  # a default, and nobody else within the wait


async def test_a_batch_waits_as_long_as_was_asked_for_and_no_longer(it: Rig) -> None:
    """The remainder of a batch waits since its own first input, whatever else happens or does not happen."""
    batched(it, "tell_size", size=2, wait_ms=2000)
    function = it.call("fu-tell_size")
    await asyncio.gather(function.remote.aio(0), function.remote.aio(1))
    began = time.monotonic()
    sizes = await asyncio.gather(*[function.remote.aio(n) for n in range(3)])
    assert sorted(sizes) == [1, 2, 2]
    assert 2.0 <= time.monotonic() - began < WAIT_MS / 1000
    assert [n async for n in function.map.aio(range(3))] == [2, 2, 1]


async def test_each_caller_its_own_result_or_exception(it: Rig) -> None:
    batched(it, "choose")
    function = it.call("fu-choose")
    got = await asyncio.gather(*[function.remote.aio(n) for n in range(4)], return_exceptions=True)
    assert [got[0], got[2]] == [0, 2]
    assert [str(got[1]), str(got[3])] == ["no 1", "no 3"]
    assert isinstance(got[1], ValueError)


async def test_a_caller_whose_arguments_do_not_fit_fails_alone(it: Rig) -> None:
    batched(it, "add")
    function = it.call("fu-add")
    got = await asyncio.gather(
        function.remote.aio(1), function.remote.aio(1, 2, 3), function.remote.aio(1, zs=1), function.remote.aio(2),
        return_exceptions=True,
    )  # fmt: skip
    assert [got[0], got[3]] == [(6, 2), (7, 2)]
    assert isinstance(got[1], TypeError)
    assert "zs" in str(got[2])


@pytest.mark.parametrize(("name", "said"), [("short", "a list of 2 results, not a list of 1"), ("no_list", "not int")])
async def test_a_wrong_result_is_named_to_every_caller(it: Rig, name: str, said: str) -> None:
    batched(it, name, size=2)
    function = it.call(f"fu-{name}")
    for got in await asyncio.gather(function.remote.aio(1), function.remote.aio(2), return_exceptions=True):
        assert isinstance(got, TypeError)
        assert said in str(got)


async def test_an_exception_of_the_batch_reaches_every_caller(it: Rig) -> None:
    batched(it, "fail", size=3)
    function = it.call("fu-fail")
    got = await asyncio.gather(*[function.remote.aio(n) for n in range(3)], return_exceptions=True)
    assert [repr(error) for error in got] == ["KeyError(3)"] * 3


async def test_large_batches(it: Rig) -> None:
    """More than one message holds, with results of 10 KB each."""
    batched(it, "tell_size", size=300)
    sizes = [size async for size in it.call("fu-tell_size").map.aio([b"x" * 10_000] * 600)]
    assert sizes == [300] * 600


async def test_a_failed_batch_is_retried_as_one(it: Rig, tmp_path: object) -> None:
    batched(it, "flaky", size=2, retry=Retry(3, 1.0, 0.05, 1.0))
    function = it.call("fu-flaky")
    assert await asyncio.gather(*[function.remote.aio(f"{tmp_path}/f") for _ in range(2)]) == [2, 2]


async def test_a_batch_that_runs_too_long(it: Rig) -> None:
    """Its inputs time out, and the container goes on with the next batch."""
    batched(it, "sleep", size=2, timeout=3, autoscaler=Autoscaler(max_containers=1))
    function = it.call("fu-sleep")
    got = await asyncio.gather(function.remote.aio(60), function.remote.aio(0), return_exceptions=True)
    assert [type(error) for error in got] == [FunctionTimeoutError] * 2
    assert await asyncio.gather(function.remote.aio(0), function.remote.aio(0)) == [0, 0]
    assert len(it.containers.running) == 1


async def test_a_cancelled_member_leaves_the_others(it: Rig) -> None:
    batched(it, "sleep", size=2)
    function = it.call("fu-sleep")
    tasks = [asyncio.create_task(function.remote.aio(1.0 + n / 10)) for n in range(2)]
    pool = it.invocation.dispatch.functions["fu-sleep"].pool
    while pool.assigned < 2:
        await asyncio.sleep(0.01)
    tasks[0].cancel()
    assert await tasks[1] == 1.1
