"""`modal.experimental.stop_fetching_inputs()`, and threads that are left at a container's end."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.integration.invocation.rig import rig
from tests.integration.invocation.test_limits import lines, until

MODULE = """
import atexit, itertools, os, pathlib, threading, time
import modal.experimental

seen = itertools.count(1)

def step(number):
    if next(seen) == 5:
        modal.experimental.stop_fetching_inputs()
    with open(pathlib.Path(__file__).with_name("runs"), "a") as file:
        file.write(f"{number}\\n")
    return number, os.getpid()

async def astep(number):
    return step(number)

def slow_step(number):
    time.sleep(0.2)
    return step(number)

def leave():
    threading.Thread(target=time.sleep, args=(1000,), name="stays").start()
    threading.Thread(target=time.sleep, args=(1000,), name="daemon", daemon=True).start()
    return 1
"""


@pytest.mark.parametrize("name", ["step", "astep", "slow_step"])
async def test_a_container_that_takes_no_more(name: str) -> None:
    """It finishes what it has begun and ends; nothing is lost, nothing runs twice, and nobody calls it a crash."""
    concurrent = 3 if name == "slow_step" else 0
    async with rig() as it:
        it.write("steps", MODULE)
        it.function("fu-1", "steps", name, is_async=name.startswith("a"), concurrent_max=concurrent)
        found = [result async for result in it.call("fu-1").map.aio(range(60))]
        assert [number for number, _pid in found] == list(range(60))
        assert len(lines(it.source / "runs")) == 60
        most = max(Counter(pid for _number, pid in found).values())
        assert 5 <= most <= 5 + max(0, concurrent - 1)
        assert it.invocation.notices("ap-1") == []
        assert not any("exited with code" in entry.text for entry in it.logs)


async def test_threads_that_are_left_are_named() -> None:
    async with rig() as it:
        it.write("steps", MODULE)
        it.function("fu-1", "steps", "leave", max_inputs=1)
        assert await it.call("fu-1").remote.aio() == 1
        said = "1 thread(s) still run at the end of the container and end with it: stays"
        await until(lambda: any(said in entry.text for entry in it.logs))
