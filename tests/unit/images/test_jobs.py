"""One layer, many who ask."""

from __future__ import annotations

import asyncio

import pytest

from intermodal.worker.images.jobs import Jobs, Log
from intermodal.worker.images.layers import Layer

LAYER = Layer("k", "k")


class Work:
    """A build that ends when it is told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self.running = asyncio.Event()

    async def make(self, log: Log) -> Layer:
        self.started += 1
        log("output", "begun\n")
        self.running.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        log("output", "done\n")
        return LAYER


async def test_all_who_ask_get_one_result_and_the_whole_log() -> None:
    jobs, work = Jobs(), Work()
    heard: list[list[str]] = [[], []]
    first = asyncio.create_task(jobs.run("k", work.make, lambda _kind, text: heard[0].append(text)))
    await work.running.wait()
    second = asyncio.create_task(jobs.run("k", work.make, lambda _kind, text: heard[1].append(text)))
    await asyncio.sleep(0)
    work.release.set()
    assert await asyncio.gather(first, second) == [LAYER, LAYER]
    assert work.started == 1
    assert heard == [["begun\n", "done\n"]] * 2


async def test_one_who_gives_up_does_not_stop_the_others_but_the_last_one_does() -> None:
    jobs, work = Jobs(), Work()
    tasks = [asyncio.create_task(jobs.run("k", work.make, lambda _kind, _text: None)) for _ in range(2)]
    await work.running.wait()
    for number, task in enumerate(tasks):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.cancelled == number


async def test_a_failure_reaches_all_and_the_next_one_tries_again() -> None:
    jobs = Jobs()
    tries = 0

    async def fail(_log: Log) -> Layer:
        nonlocal tries
        tries += 1
        raise ValueError("no")

    results = await asyncio.gather(
        *(jobs.run("k", fail, lambda _kind, _text: None) for _ in range(2)), return_exceptions=True
    )
    assert [str(result) for result in results] == ["no", "no"]
    with pytest.raises(ValueError, match="no"):
        await jobs.run("k", fail, lambda _kind, _text: None)
    assert tries == 2


async def test_closing_ends_what_runs() -> None:
    jobs, work = Jobs(), Work()
    task = asyncio.create_task(jobs.run("k", work.make, lambda _kind, _text: None))
    await work.running.wait()
    await jobs.close()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cancelled == 1
