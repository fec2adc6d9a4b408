from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modal import _map, exception
from modal._client import Client

from .calls import Fn
from .stand_in import StandIn
from .test_calls import wait_for


@pytest.fixture
def square(stand_in: StandIn, client: Client) -> Fn:
    def square(x: int, plus: int = 0) -> int:
        if x < 0:
            raise ValueError(f"{x} is negative")
        return x * x + plus

    stand_in.functions["square"] = square
    stand_in.functions["add"] = lambda a, b: a + b
    return Fn(client, "square")


def shuffled(indexes: list[int]) -> list[int]:
    return random.Random(len(indexes)).sample(indexes, len(indexes))


def test_in_order_and_as_they_come(square: Fn, stand_in: StandIn) -> None:
    stand_in.order = shuffled  # type: ignore[method-assign]
    expected = [n * n for n in range(3000)]
    assert list(square.map(range(3000))) == expected
    unordered = list(square.map(range(3000), order_outputs=False))
    assert unordered != expected
    assert sorted(unordered) == expected
    assert list(square.map([])) == []


async def test_the_async_face(square: Fn, stand_in: StandIn) -> None:
    stand_in.order = shuffled  # type: ignore[method-assign]
    assert [item async for item in square.map.aio(range(3000))] == [n * n for n in range(3000)]
    await square.for_each.aio(range(10))


async def test_async_iterators(square: Fn) -> None:
    async def numbers(n: int) -> AsyncIterator[int]:
        for number in range(n):
            if number % 100 == 0:
                await asyncio.sleep(0)
            yield number

    assert [item async for item in square.map.aio(numbers(1500))] == [n * n for n in range(1500)]
    pairs = [item async for item in square.map.aio(numbers(20), itertools.count())]
    assert pairs == [n * n + n for n in range(20)]

    async def tuples() -> AsyncIterator[tuple[int, int]]:
        for number in range(5):
            yield number, 1

    assert [item async for item in square.starmap.aio(tuples())] == [n * n + 1 for n in range(5)]

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        _ = [item async for item in square.map.aio(broken())]


async def test_an_async_iterator_that_needs_the_results(square: Fn) -> None:
    """Outputs are yielded while the iterator waits for them."""
    results: asyncio.Queue[int] = asyncio.Queue()

    async def chain() -> AsyncIterator[int]:
        yield 2
        for _ in range(2):
            yield await results.get()

    seen = []
    async for item in square.map.aio(chain()):
        seen.append(item)
        results.put_nowait(item)
    assert seen == [4, 16, 256]


def test_async_iterators_need_the_async_face(square: Fn) -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(exception.InvalidError, match=r"\.aio"):
        list(square.map(numbers()))


def test_several_iterators_stop_at_the_shortest(square: Fn, client: Client) -> None:
    add = Fn(client, "add")
    assert list(add.map([1, 2, 3], itertools.repeat(10))) == [11, 12, 13]
    assert list(add.starmap([(1, 2), [3, 4]])) == [3, 7]
    assert list(square.map([1, 2], kwargs={"plus": 5})) == [6, 9]
    with pytest.raises(exception.InvalidError, match="starmap spreads"):
        list(add.starmap([1, 2]))


def test_the_first_exception_ends_the_map(square: Fn, stand_in: StandIn) -> None:
    results = square.map([1, 2, -3, 4])
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(ValueError, match="-3 is negative"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_exceptions_as_results(square: Fn) -> None:
    results = list(square.map([1, -2, 3], return_exceptions=True))
    assert results[0] == 1
    assert repr(results[1]) == "UserCodeException(ValueError('-2 is negative'))"
    assert results[2] == 9


def test_for_each(square: Fn, stand_in: StandIn) -> None:
    assert square.for_each(range(100)) is None  # type: ignore[func-returns-value]
    assert len(stand_in.runs) == 100
    with pytest.raises(ValueError, match="negative"):
        square.for_each([1, -1])
    square.for_each([1, -1], ignore_exceptions=True)


def test_the_iterator_runs_in_the_callers_thread_and_its_error_surfaces(square: Fn) -> None:
    threads = set()

    def numbers() -> Iterator[int]:
        for number in range(100):
            threads.add(threading.get_ident())
            yield number
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(square.map(numbers()))
    assert threads == {threading.get_ident()}


def test_inputs_are_taken_lazily(square: Fn, stand_in: StandIn) -> None:
    taken = itertools.count()
    results = square.map(taken)
    assert next(results) == 0
    assert next(taken) <= 2 * 1000
    results.close()  # type: ignore[attr-defined]


def test_at_most_1000_inputs_are_under_way(square: Fn, stand_in: StandIn) -> None:
    stand_in.order = lambda indexes: indexes if len(indexes) > 900 else []  # type: ignore[method-assign]
    release = itertools.islice(square.map(range(5000), order_outputs=False), 900)
    assert len(list(release)) == 900
    assert stand_in.largest_backlog <= 1000


def test_bytes_under_way_are_bounded(square: Fn, stand_in: StandIn) -> None:
    stand_in.functions["size"] = len
    stand_in.order = lambda indexes: indexes if len(indexes) >= 320 else []  # type: ignore[method-assign]
    data = os.urandom(200_000)
    results = Fn(square.client, "size").map([data] * 2000, order_outputs=False)
    assert next(results) == 200_000
    assert 320 <= stand_in.largest_backlog <= (64 << 20) // 200_000 + 7
    results.close()  # type: ignore[attr-defined]


def test_results_that_wait_for_an_earlier_one_are_bounded(
    square: Fn, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first input is answered only when the client asks for nothing else any more: it must have stopped by then."""
    stand_in.functions["fill"] = lambda number: bytes([number % 251]) * 20_000
    monkeypatch.setattr(_map, "BYTES_EARLY", 2 << 20)
    opened: list[Any] = []
    taken: list[int] = []  # inputs that were taken when the client had nothing but the first to wait for
    run_batch, receive = stand_in._run_batch, _map._Map.receive

    def remember(*args: Any) -> None:
        opened[:] = args
        run_batch(*args)

    async def look(run: Any) -> None:
        full = run._early_bytes >= _map.BYTES_EARLY or run._exhausted
        if full and list(run.call.unanswered) == [0] and not taken:
            taken.append(run._count)
            stand_in._loop.call_soon_threadsafe(run_batch, *opened)
        await receive(run)

    monkeypatch.setattr(stand_in, "_run_batch", remember)
    monkeypatch.setattr(_map._Map, "receive", look)
    monkeypatch.setattr(stand_in, "order", lambda indexes: indexes if taken else [one for one in indexes if one])
    results = list(Fn(square.client, "fill").map(range(3000)))
    assert [found[0] for found in results] == [number % 251 for number in range(3000)]
    assert (2 << 20) // 21_000 < taken[0] <= (2 << 20) // 20_000 + 1000


def test_batches_grow_while_the_iterator_keeps_up(
    square: Fn, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_map, "LINGER", 100.0)  # it keeps up, whatever else this machine does
    list(square.map(range(1000)))
    assert stand_in.messages[:6] == [1, 2, 4, 8, 16, 32]
    assert max(stand_in.messages) == 64


def test_what_a_slow_iterator_gave_is_sent_while_it_waits(square: Fn, stand_in: StandIn) -> None:
    """Each item is only produced when those before are answered: to wait for more of them would be a deadlock."""
    answered = threading.Semaphore(0)
    answer = stand_in._answer

    def answering(*args: Any) -> Any:
        try:
            return answer(*args)
        finally:
            answered.release()

    stand_in._answer = answering  # type: ignore[method-assign]

    def numbers() -> Iterator[int]:
        for number in range(20):
            yield number
            assert answered.acquire(timeout=200)

    assert list(square.map(numbers())) == [n * n for n in range(20)]


def test_a_connection_lost_while_the_iterator_waits(square: Fn, stand_in: StandIn) -> None:
    def numbers() -> Iterator[int]:
        for number in range(6):
            yield number
            opened = len(stand_in.opened)
            stand_in.cut_now()
            if number == 3:
                wait_for(lambda before=opened: len(stand_in.opened) > before)

    assert list(square.map(numbers())) == [n * n for n in range(6)]


def test_results_that_nobody_iterates(square: Fn, stand_in: StandIn) -> None:
    with pytest.warns(UserWarning, match="not iterated"):
        square.map([1])
    assert not stand_in.runs


def test_a_map_within_a_map(square: Fn) -> None:
    assert [list(square.map([item, 1])) for item in square.map(range(5))] == [[n**4, 1] for n in range(5)]


def test_progress_is_told(square: Fn, events: list[tuple[str, Any]]) -> None:
    list(square.map(range(200)))
    told = [value for kind, value in events if kind == "map"]
    assert told[-1] == (200, 200)
    assert told == sorted(told)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    count=st.integers(0, 400),
    cuts=st.lists(st.integers(1, 150), max_size=3),
    seed=st.integers(0, 1000),
    ordered=st.booleans(),
    failing=st.sets(st.integers(0, 400), max_size=5),
    face=st.sampled_from(["blocking", "aio"]),
)
def test_cuts_reorderings_and_failures(
    square: Fn,
    stand_in: StandIn,
    count: int,
    cuts: list[int],
    seed: int,
    ordered: bool,
    failing: set[int],
    face: str,
) -> None:
    """Whatever the order of outputs and wherever connections are lost: every input has one output, in its place."""
    random_ = random.Random(seed)
    left = list(cuts)

    def order(indexes: list[int]) -> list[int]:
        if stand_in.die_after <= 0 and left:
            stand_in.die_after = left.pop()
        return random_.sample(indexes, len(indexes))

    stand_in.order = order  # type: ignore[method-assign]
    stand_in.runs.clear()
    inputs = [-n - 1 if n in failing else n for n in range(count)]

    async def collect() -> list[Any]:
        return [item async for item in square.map.aio(inputs, order_outputs=ordered, return_exceptions=True)]

    if face == "aio":
        results = asyncio.run(collect())
    else:
        results = list(square.map(inputs, order_outputs=ordered, return_exceptions=True))
    stand_in.die_after = -1
    found = [repr(item.exc) if isinstance(item, exception.UserCodeException) else item for item in results]
    expected = [repr(ValueError(f"{n} is negative")) if n < 0 else n * n for n in inputs]
    assert (found if ordered else sorted(map(str, found))) == (expected if ordered else sorted(map(str, expected)))
    assert set(stand_in.runs.values()) <= {1}
