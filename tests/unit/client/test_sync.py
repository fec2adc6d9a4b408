from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import warnings
from collections.abc import AsyncIterator

import pytest

from modal import _sync
from modal._sync import (
    blocking,
    gather,
    run,
    sleep,
    synchronized,
    synchronized_classmethod,
    synchronized_context,
    synchronized_iterator,
)


class Thing:
    def __init__(self) -> None:
        self.events: list[str] = []

    @synchronized
    async def add(self, x: int, *, y: int = 1) -> int:
        """Adds."""
        await sleep(0)
        self.events.append("blocking" if blocking() else "aio")
        return x + y

    @synchronized
    async def count(self, n: int) -> AsyncIterator[int]:
        try:
            for number in range(n):
                await sleep(0)
                yield number
        finally:
            self.events.append("closed")

    @synchronized_classmethod
    async def made(cls, x: int) -> tuple[type, int]:
        return cls, x

    @synchronized
    @staticmethod
    async def static(x: int) -> int:
        return x

    @synchronized_context
    async def within(self) -> AsyncIterator[str]:
        self.events.append("enter")
        try:
            yield "inside"
        except KeyError:
            self.events.append("caught")
        finally:
            self.events.append("exit")

    @synchronized_iterator("results() was not iterated")
    async def results(self) -> AsyncIterator[int]:
        yield 1

    @synchronized
    async def suspends(self) -> None:
        await asyncio.sleep(0)

    @synchronized
    async def twice(self, x: int) -> int:
        return await self.add.aio(x) + await self.add.aio(x)


def test_the_blocking_face_runs_to_the_end() -> None:
    thing = Thing()
    assert thing.add(1) == 2
    assert thing.add(1, y=5) == 6
    assert thing.events == ["blocking", "blocking"]
    assert list(thing.count(3)) == [0, 1, 2]
    assert thing.twice(2) == 6


async def test_the_async_face_runs_on_the_loop() -> None:
    thing = Thing()
    assert await thing.add.aio(1) == 2
    assert [number async for number in thing.count.aio(3)] == [0, 1, 2]
    assert thing.events == ["aio", "closed"]
    assert await thing.twice.aio(2) == 6


async def test_a_blocking_call_inside_a_running_loop_blocks() -> None:
    thing = Thing()
    assert thing.add(1) == 2
    assert list(thing.count(2)) == [0, 1]
    assert thing.events[0] == "blocking"
    assert not blocking()


def test_a_loop_inside_a_blocking_call_is_asynchronous() -> None:
    """An input iterator may start a loop of its own while a blocking map advances it."""
    seen: list[bool] = []

    async def inner() -> None:
        seen.append(blocking())
        await asyncio.sleep(0)

    async def outer() -> None:
        seen.append(blocking())
        asyncio.run(inner())
        seen.append(blocking())

    run(outer())
    assert seen == [True, False, True]


def test_classmethods_and_staticmethods() -> None:
    assert Thing.made(1) == (Thing, 1)
    assert Thing().made(1) == (Thing, 1)
    assert asyncio.run(Thing.made.aio(2)) == (Thing, 2)
    assert Thing.static(3) == 3
    assert Thing().static(3) == 3


def test_contexts_in_both_faces() -> None:
    thing = Thing()
    with thing.within() as value:
        assert value == "inside"
    with thing.within():
        raise KeyError

    async def use() -> None:
        async with thing.within() as value:
            assert value == "inside"
        async with thing.within.aio():
            raise KeyError

    asyncio.run(use())
    assert thing.events == ["enter", "exit", "enter", "caught", "exit"] * 2
    with pytest.raises(ValueError, match="mine"), thing.within():
        raise ValueError("mine")


def test_signature_name_and_documentation() -> None:
    thing = Thing()
    assert str(inspect.signature(thing.add)).startswith("(x: 'int', *, y: 'int' = 1)")
    assert next(iter(inspect.signature(Thing.add).parameters)) == "self"
    assert thing.add.__doc__ == "Adds."
    assert thing.add.__name__ == "add"
    assert thing.add.__qualname__ == "Thing.add"
    assert inspect.iscoroutinefunction(thing.add.aio)
    assert "add" in repr(thing.add)
    assert thing.add == thing.add
    assert thing.add != thing.twice
    assert len({thing.add, thing.add}) == 1
    assert str(inspect.signature(Thing.made)) == "(x: 'int') -> 'tuple[type, int]'"


def test_bound_methods_can_be_pickled() -> None:
    method = pickle.loads(pickle.dumps(Thing().add))
    assert method(1) == 2


def test_a_generator_that_is_dropped_is_closed() -> None:
    thing = Thing()
    for number in thing.count(5):
        if number == 1:
            break
    assert thing.events == ["closed"]
    started = thing.count(5)
    next(started)
    started.close()  # type: ignore[attr-defined]
    assert thing.events == ["closed", "closed"]


def test_the_warning_for_results_that_nobody_looks_at() -> None:
    thing = Thing()
    with pytest.warns(UserWarning, match="not iterated"):
        thing.results()
    with pytest.warns(UserWarning, match="not iterated"):
        thing.results.aio()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(thing.results()) == [1]
        assert asyncio.run(_collect(thing.results.aio())) == [1]
        thing.results().close()  # type: ignore[attr-defined]


async def _collect(items: AsyncIterator[int]) -> list[int]:
    return [item async for item in items]


def test_an_implementation_that_needs_a_loop_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"\.aio"):
        Thing().suspends()


def test_exceptions_come_out_as_they_are() -> None:
    @synchronized
    async def fails() -> None:
        raise LookupError("x")

    with pytest.raises(LookupError, match="x"):
        fails()
    with pytest.raises(LookupError, match="x"):
        asyncio.run(fails.aio())


def test_our_frames_are_taken_out_of_known_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    from modal.exception import NotFoundError

    @synchronized
    async def fails() -> None:
        await gather(_raise())

    async def _raise() -> None:
        raise NotFoundError("x")

    with pytest.raises(NotFoundError) as caught:
        fails()
    assert [entry.name for entry in caught.traceback].count("_drive") == 0
    monkeypatch.setenv("MODAL_TRACEBACK", "1")
    with pytest.raises(NotFoundError) as caught:
        fails()
    assert "_drive" in [entry.name for entry in caught.traceback]


def test_threads_have_faces_of_their_own() -> None:
    thing = Thing()
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(thing.add(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2] * 8
    assert set(thing.events) == {"blocking"}


def test_gather_gives_up_what_is_left_after_a_failure() -> None:
    ran: list[int] = []

    async def one(number: int) -> int:
        ran.append(number)
        if number == 1:
            raise ValueError("1")
        await sleep(0)
        return number

    with pytest.raises(ValueError, match="1"):
        run(gather(one(0), one(1), one(2)))
    assert ran == [0, 1]
    assert run(gather(one(3), one(4))) == [3, 4]

    async def both() -> list[int]:
        return await gather(one(5), one(6))

    assert asyncio.run(both()) == [5, 6]


async def test_call_blocking_leaves_the_loop_alone() -> None:
    here = threading.get_ident()
    assert await _sync.call_blocking(threading.get_ident) != here
    assert await asyncio.to_thread(run, _sync.call_blocking(threading.get_ident)) != here


def test_only_async_functions_have_two_faces() -> None:
    with pytest.raises(TypeError, match="async def"):
        synchronized(lambda: None)  # type: ignore[call-overload]


def test_nothing_imports_asyncio() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from modal._sync import synchronized, sleep\n"
        "@synchronized\n"
        "async def f():\n    await sleep(0)\n    return 7\n"
        "assert f() == 7\n"
        "assert not {'asyncio', 'inspect', 'dataclasses'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={"PYTHONPATH": "src"})
