from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path

import pytest

from modal import exception
from modal._client import Client

from .calls import Fn
from .stand_in import StandIn


@pytest.fixture
def square(stand_in: StandIn, client: Client) -> Fn:
    stand_in.functions["square"] = lambda x: x * x
    return Fn(client, "square")


@pytest.fixture
def numbers(stand_in: StandIn, client: Client) -> Fn:
    def count(n: int, fail_at: int = -1):
        for number in range(n):
            if number == fail_at:
                raise ValueError("enough")
            yield number

    stand_in.functions["count"] = count
    return Fn(client, "count")


def test_remote(square: Fn, stand_in: StandIn) -> None:
    assert square.remote(3) == 9
    assert square.remote(x=4) == 16
    assert len(stand_in.connections) == 1  # one connection serves one call after the other


async def test_remote_in_the_async_face(square: Fn, stand_in: StandIn) -> None:
    assert await asyncio.gather(*[square.remote.aio(n) for n in range(50)]) == [n * n for n in range(50)]
    assert len(stand_in.connections) == 1


def test_both_faces_in_one_program(square: Fn) -> None:
    async def main() -> int:
        return await square.remote.aio(2) + square.remote(3)

    assert asyncio.run(main()) == 13
    assert asyncio.run(main()) == 13  # a second loop, a second connection
    assert square.remote(4) == 16


def test_exceptions_are_raised_here(square: Fn) -> None:
    with pytest.raises(TypeError, match="can't multiply") as caught:
        square.remote("x")
    assert "<lambda>" in [entry.name for entry in caught.traceback]


def test_unknown_functions(client: Client) -> None:
    with pytest.raises(exception.NotFoundError, match="there is no function nope"):
        Fn(client, "nope").remote()
    with pytest.raises(exception.NotFoundError):
        list(Fn(client, "nope").map([1]))


def test_arguments_that_cannot_be_sent(square: Fn, stand_in: StandIn) -> None:
    with pytest.raises(exception.SerializationError, match=r"argument 1 .*lock"):
        square.remote(threading.Lock())
    assert not stand_in.runs


def test_results_that_cannot_be_sent(stand_in: StandIn, client: Client) -> None:
    stand_in.functions["lock"] = threading.Lock
    with pytest.raises(exception.SerializationError, match="the result cannot be serialized"):
        Fn(client, "lock").remote()


def test_generators(numbers: Fn) -> None:
    assert list(numbers.remote_gen(5)) == [0, 1, 2, 3, 4]
    assert list(numbers.remote_gen(0)) == []
    items = numbers.remote_gen(5, fail_at=2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="enough"):
        next(items)


async def test_generators_in_the_async_face(numbers: Fn) -> None:
    assert [item async for item in numbers.remote_gen.aio(200)] == list(range(200))


def test_a_generator_closed_early_is_cancelled(numbers: Fn, stand_in: StandIn) -> None:
    for item in numbers.remote_gen(1000):
        if item == 3:
            break
    assert numbers.remote_gen(3) is not None
    wait_for(lambda: stand_in.cancelled != [])


def test_spawned_calls(square: Fn, stand_in: StandIn) -> None:
    call_id = square.spawn(5)
    assert call_id.startswith("fc-")
    assert len(call_id) == 29
    assert square.get(call_id) == 25
    assert square.get(call_id, timeout=0) == 25
    failed = square.spawn("x")
    with pytest.raises(TypeError):
        square.get(failed)


def test_no_result_yet(square: Fn) -> None:
    for timeout in (0, 0.1):
        with pytest.raises(TimeoutError, match="has no result yet") as caught:
            square.get("fc-UNKNOWN", timeout=timeout)
        assert isinstance(caught.value, exception.TimeoutError)
    with pytest.raises(exception.OutputExpiredError):
        square.get("fc-EXPIRED", timeout=0)


async def test_spawn_in_the_async_face(square: Fn) -> None:
    assert await square.get.aio(await square.spawn.aio(3)) == 9


def test_spawn_map(square: Fn, stand_in: StandIn) -> None:
    call_id = square.spawn_map(range(1200))
    assert sorted(index for call, index in stand_in.runs if call == call_id) == list(range(1200))
    assert stand_in.messages == [512, 512, 176]
    assert square.get(call_id, 299) == 299 * 299
    assert square.spawn_map([]) == ""


def test_spawn_map_over_a_cut(square: Fn, stand_in: StandIn) -> None:
    stand_in.die_after = 3  # messages
    call_id = square.spawn_map(range(2000))
    assert {index for call, index in stand_in.runs if call == call_id} == set(range(2000))
    assert set(stand_in.runs.values()) == {1}


def test_an_interrupt_gives_the_call_up(square: Fn, stand_in: StandIn) -> None:
    stand_in.hold.clear()
    main = threading.get_ident()

    def interrupt() -> None:
        wait_for(lambda: stand_in.asked > 0)  # the main thread waits for the answer
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        square.remote(1)
    thread.join()
    wait_for(lambda: stand_in.cancelled != [])
    stand_in.hold.set()
    assert square.remote(2) == 4


async def test_a_cancelled_task_gives_the_call_up(square: Fn, stand_in: StandIn) -> None:
    stand_in.hold.clear()
    task = asyncio.ensure_future(square.remote.aio(1))
    while not stand_in.asked:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not stand_in.cancelled:
        await asyncio.sleep(0.001)
    stand_in.hold.set()
    assert await square.remote.aio(2) == 4


def test_many_threads(square: Fn, stand_in: StandIn) -> None:
    results: list[int] = []

    def work(start: int) -> None:
        results.extend(square.remote(n) for n in range(start, start + 50))

    threads = [threading.Thread(target=work, args=(50 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [n * n for n in range(400)]
    assert len(stand_in.connections) <= 8


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("size", [300_000, 20 << 20])
def test_large_values(short_dir: Path, share: bool, size: int) -> None:
    stand_in = StandIn(short_dir, share_values=share)
    client = Client(stand_in.address)
    try:
        stand_in.functions["twice"] = lambda data: (data, data[:5])
        data = bytes(range(256)) * (size // 256)
        fn = Fn(client, "twice")
        assert fn.remote(data) == (data, data[:5])
        assert asyncio.run(fn.remote.aio(data)) == (data, data[:5])
        wait_for(lambda: len(stand_in.forgotten) == 2)
        results = list(fn.map([data, 3, data], return_exceptions=True))
        assert results[0] == results[2] == (data, data[:5])
        assert "TypeError" in repr(results[1])
    finally:
        client.close()
        stand_in.close()


def wait_for(condition) -> None:
    """Poll what another thread does; the test's time limit ends it."""
    while not condition():
        time.sleep(0.001)
