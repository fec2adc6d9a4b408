"""Time-outs, retries, crashes and cancellation: what one input does is no other input's business."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from modal._protocol.messages.function import Autoscaler, Retry
from modal.exception import ExecutionError, FunctionTimeoutError, OutputExpiredError, RemoteError
from tests.integration.invocation.rig import Rig, rig

MODULE = """
import asyncio, os, pathlib, threading, time

def note(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\\n")

def sleep(seconds):
    time.sleep(seconds)
    return seconds

async def asleep(seconds, path=""):
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if path:
            note(path, "CancelledError")
        raise
    return seconds

def stubborn(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.05)
        except BaseException:
            pass
    return seconds

def flaky(path, fails, gate=""):
    note(path, time.monotonic())
    while gate and len(open(path).readlines()) == 2 and not os.path.exists(gate):
        time.sleep(0.01)
    if len(open(path).readlines()) <= fails:
        raise ValueError("not yet")
    return "done"

def slow_at_first(path):
    note(path, "ran")
    if len(open(path).readlines()) < 3:
        time.sleep(60)
    return "done"

def die(path, times):
    note(path, "ran")
    if len(open(path).readlines()) <= times:
        os._exit(9)
    return "alive"

def preempt(path, times):
    import signal
    note(path, "ran")
    if len(open(path).readlines()) <= times:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    return "alive"

async def apreempt(path, times):
    return preempt(path, times)

def stop_itself(path):
    import signal
    note(path, "ran")
    if len(open(path).readlines()) < 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "alive"

def once(path):
    note(path, "ran")
    raise ValueError("an answer, not a crash")

def interrupt_itself(path):
    note(path, "ran")
    raise KeyboardInterrupt("by hand")

async def ainterrupt_itself(path):
    interrupt_itself(path)

def who(seconds, path="", gate="", once=False):
    import modal
    if path:
        note(path, "ran")
    first = modal.current_input_id()
    if once and len(open(path).readlines()) > 1:
        seconds = 0
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    time.sleep(seconds)
    print(f"I am {modal.current_input_id()}")
    return first, modal.current_input_id(), threading.current_thread() is threading.main_thread()

async def awho(seconds):
    import modal
    first = modal.current_input_id()
    await asyncio.sleep(seconds)
    print(f"I am {modal.current_input_id()}")
    async def child():
        return modal.current_input_id()
    return first, await asyncio.create_task(child()), threading.current_thread() is threading.main_thread()

class Own(Exception):
    def __init__(self, code, *, detail):
        super().__init__(code)
        self.detail = detail

def raise_own(kind):
    if kind == "lambda":
        error = ValueError("holds what cannot be pickled")
        error.lock = threading.Lock()
        raise error
    if kind == "own":
        raise Own(3, detail="x")
    raise ZeroDivisionError("by nothing")

def result_of(kind):
    return threading.Lock() if kind == "lock" else kind
"""


@pytest.fixture
async def it() -> AsyncIterator[Rig]:
    async with rig() as started:
        started.write("program", MODULE)
        yield started


def lines(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def until(true: Callable[[], object], seconds: float = 100.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def publish(it: Rig, name: str, **fields: object) -> str:
    fields.setdefault("is_async", name.startswith("a"))
    it.function(f"fu-{name}", "program", name, **fields)
    return f"fu-{name}"


ONE = Autoscaler(max_containers=1)


async def test_a_timed_out_input_ends_alone(it: Rig) -> None:
    """Its container goes on with the next input, and the time in the queue does not count."""
    function = it.call(publish(it, "sleep", timeout=4, autoscaler=ONE))
    waiting = [asyncio.create_task(function.remote.aio(seconds)) for seconds in (0.1, 3600, 0.2, 0.3)]
    got = await asyncio.gather(*waiting, return_exceptions=True)
    assert [got[0], got[2], got[3]] == [0.1, 0.2, 0.3]
    assert isinstance(got[1], FunctionTimeoutError)
    assert len(it.containers.running) == 1


async def test_each_of_many_concurrent_inputs_has_its_own_time(it: Rig, tmp_path: Path) -> None:
    """Others that finish meanwhile do not prolong it."""
    function = it.call(publish(it, "asleep", timeout=4, concurrent_max=50, autoscaler=ONE))
    late = asyncio.create_task(function.remote.aio(3600, str(tmp_path / "late")))
    others = 0
    while not late.done():
        assert await function.remote.aio(0.05) == 0.05
        others += 1
    assert isinstance(late.exception(), FunctionTimeoutError)
    assert others > 5
    await until(lambda: lines(tmp_path / "late") == ["CancelledError"])
    assert len(it.containers.running) == 1


async def test_a_time_out_is_retried(it: Rig, tmp_path: Path) -> None:
    function = it.call(publish(it, "slow_at_first", timeout=3, retry=Retry(2, 1.0, 0.1, 1.0)))
    assert await function.remote.aio(str(tmp_path / "runs")) == "done"
    assert len(lines(tmp_path / "runs")) == 3


async def test_code_that_ignores_its_cancellation(it: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container is ended, and whoever waited in it runs elsewhere."""
    from intermodal.server import dispatch

    monkeypatch.setattr(dispatch, "UNANSWERED_SECONDS", 1.0)
    function = it.call(publish(it, "stubborn", timeout=3))
    first = asyncio.create_task(function.remote.aio(60))
    with pytest.raises(FunctionTimeoutError):
        await first
    assert await function.remote.aio(0.1) == 0.1
    await until(lambda: it.containers.running[0].ended)


async def test_retries_wait_as_they_were_told(it: Rig, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    function = it.call(publish(it, "flaky", retry=Retry(3, 2.0, 0.2, 0.5)))
    assert await function.remote.aio(str(path), 3) == "done"
    at = [float(line) for line in lines(path)]
    pauses = [later - sooner for sooner, later in itertools.pairwise(at)]
    assert all(pause >= wanted for pause, wanted in zip(pauses, (0.2, 0.4, 0.5), strict=True))
    with pytest.raises(ValueError, match="not yet"):
        await function.remote.aio(str(tmp_path / "more"), 9)
    assert len(lines(tmp_path / "more")) == 4


@pytest.mark.parametrize("moment", ["runs", "has failed", "waits"])
async def test_retries_are_counted_over_a_restart_of_the_server(it: Rig, tmp_path: Path, moment: str) -> None:
    """Whatever the second attempt does at that moment; that it has failed the server may hear of twice."""
    path, gate = tmp_path / "runs", tmp_path / "gate"
    function = it.call(publish(it, "flaky", retry=Retry(3, 1.0, 0.6, 1.0)))
    if moment != "runs":
        gate.touch()
    call_id = await function.spawn.aio(str(path), 9, str(gate))
    await until(lambda: len(lines(path)) == 2)
    if moment != "runs":
        await until(lambda: not it.invocation.dispatch.functions["fu-flaky"].pool.assigned)
    if moment == "waits":
        await until(lambda: all(not cell._outputs for cell in it.agent.cells.values()))
    await it.restart_server()
    gate.touch()
    with pytest.raises(ValueError, match="not yet"):
        await function.get.aio(call_id)
    assert len(lines(path)) == 4


async def test_an_input_that_kills_its_container(it: Rig, tmp_path: Path) -> None:
    """In an ephemeral app it fails after a few attempts; others of the function do not."""
    function = it.call(publish(it, "die"))
    assert await function.remote.aio(str(tmp_path / "twice"), 2) == "alive"
    bad = asyncio.create_task(function.remote.aio(str(tmp_path / "bad"), 99))
    await asyncio.sleep(0)
    assert await function.remote.aio(str(tmp_path / "good"), 0) == "alive"
    with pytest.raises(ExecutionError, match="exited with code 9"):
        await bad
    assert len(lines(tmp_path / "bad")) in (3, 4)  # the first time it is not certain whose fault it was


@pytest.mark.parametrize("name", ["preempt", "apreempt"])
async def test_a_preempted_container_has_not_crashed(it: Rig, tmp_path: Path, name: str) -> None:
    """Its input runs again, however often that happens, and the next container starts at once."""
    function_id = publish(it, name)
    assert await it.call(function_id).remote.aio(str(tmp_path / "runs"), 5) == "alive"
    assert len(lines(tmp_path / "runs")) == 6
    assert it.invocation.dispatch.function(function_id).crashes.round == 0


@pytest.mark.parametrize("name", ["interrupt_itself", "ainterrupt_itself"])
async def test_user_code_that_raises_keyboard_interrupt_was_not_preempted(it: Rig, tmp_path: Path, name: str) -> None:
    """It has failed like any other, and its container goes on."""
    function = it.call(publish(it, name))
    for count in (1, 2):
        with pytest.raises(ExecutionError, match="KeyboardInterrupt: by hand"):
            await function.remote.aio(str(tmp_path / "runs"))
        assert len(lines(tmp_path / "runs")) == count
    assert len(it.containers.running) == 1


async def test_a_container_that_has_served_its_inputs_has_not_crashed(it: Rig, tmp_path: Path) -> None:
    """Also where all of them raised."""
    function_id = publish(it, "once", max_inputs=1)
    for _ in range(4):
        with pytest.raises(ValueError, match="an answer"):
            await it.call(function_id).remote.aio(str(tmp_path / "runs"))
    assert it.invocation.dispatch.function(function_id).crashes.round == 0


async def test_a_deployed_function_tries_for_ever(it: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from intermodal.server import crashes, failures

    monkeypatch.setattr(crashes, "crash_pause", lambda crashes: 0.01 * crashes)
    monkeypatch.setattr(failures, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(it.invocation, "_ephemeral", lambda _app_id: False)
    function = it.call(publish(it, "die"))
    assert await function.remote.aio(str(tmp_path / "runs"), 7) == "alive"


async def test_cancelling_one_of_several_threads_ends_the_container_and_blames_nobody(it: Rig, tmp_path: Path) -> None:
    """As documented; the other inputs run elsewhere, however often it happens."""
    function = it.call(publish(it, "who", concurrent_max=3, autoscaler=ONE))
    gate = tmp_path / "gate"
    others = [asyncio.create_task(function.remote.aio(0, "", str(gate))) for _ in range(2)]
    path = tmp_path / "victims"
    for number in range(4):
        victim = asyncio.create_task(function.remote.aio(60, str(path)))
        await until(lambda number=number: len(lines(path)) > number)  # type: ignore[misc]
        count = len(it.containers.running)
        victim.cancel()
        await until(lambda count=count: len(it.containers.running) > count)  # type: ignore[misc]
    gate.touch()
    for first, second, _main in await asyncio.gather(*others):
        assert first == second


@pytest.mark.parametrize("name", ["who", "awho"])
async def test_each_concurrent_input_knows_who_it_is(it: Rig, name: str) -> None:
    """`current_input_id`, the printed lines' owner, and where it runs: threads for sync, one loop for async."""
    function = it.call(publish(it, name, concurrent_max=10, autoscaler=ONE))
    got = await asyncio.gather(*[function.remote.aio(0.2 + n / 50) for n in range(10)])
    assert len({first for first, _second, _main in got}) == 10
    assert all(first == second for first, second, _main in got)
    assert {main for _first, _second, main in got} == {name == "awho"}
    said = [entry for entry in it.logs if entry.text.startswith("I am")]
    for entry in said:
        assert {line[5:] for line in entry.text.splitlines()} == {entry.input_id}
    assert sum(len(entry.text.splitlines()) for entry in said) == 10


async def test_exceptions_keep_their_types_as_far_as_they_can(it: Rig) -> None:
    function = it.call(publish(it, "raise_own"))
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        await function.remote.aio("plain")
    with pytest.raises(Exception, match="holds what cannot be pickled") as caught:
        await function.remote.aio("lambda")
    assert isinstance(caught.value, (ValueError, ExecutionError))
    with pytest.raises(Exception, match="3"):
        await function.remote.aio("own")
    results = it.call(publish(it, "result_of"))
    with pytest.raises(Exception, match="lock"):
        await results.remote.aio("lock")
    assert await results.remote.aio("fine") == "fine"


async def test_a_cancelled_call_reaches_its_waiters(it: Rig) -> None:
    from modal import _invocation

    function = it.call(publish(it, "sleep", autoscaler=ONE))
    running, waiting = await function.spawn.aio(60), await function.spawn.aio(0.1)
    pool = it.invocation.dispatch.functions["fu-sleep"].pool
    await until(lambda: pool.assigned)
    getting = asyncio.create_task(function.get.aio(running))
    await _invocation.call_cancel(function.client, running)
    with pytest.raises(RemoteError, match="cancelled"):
        await getting
    assert await function.get.aio(waiting) == 0.1
    assert len(it.containers.running) == 1
    again = await function.spawn.aio(60)
    other = await function.spawn.aio(0.2)
    await until(lambda: pool.assigned)
    await _invocation.call_cancel(function.client, again, terminate_containers=True)
    assert await function.get.aio(other) == 0.2
    assert len(it.containers.running) == 2


async def test_what_runs_beside_an_input_whose_container_is_terminated_runs_again(it: Rig, tmp_path: Path) -> None:
    from modal import _invocation

    function = it.call(publish(it, "who", concurrent_max=2, autoscaler=ONE))
    doomed = await function.spawn.aio(60, str(tmp_path / "doomed"))
    other = asyncio.create_task(function.remote.aio(3600, str(tmp_path / "other"), "", True))
    await until(lambda: lines(tmp_path / "doomed") and lines(tmp_path / "other"))
    assert len(it.containers.running) == 1
    await _invocation.call_cancel(function.client, doomed, terminate_containers=True)
    first, second, _main = await other
    assert first == second
    assert len(lines(tmp_path / "other")) == 2
    assert len(lines(tmp_path / "doomed")) == 1
    with pytest.raises(RemoteError, match="cancelled"):
        await function.get.aio(doomed)
    assert it.invocation.dispatch.function("fu-who").crashes.count == 0


async def test_results_expire(it: Rig) -> None:
    """After seven days, whether the rows are still there or not; others stay."""
    from intermodal.server.store.calls import OUTPUTS_KEPT

    function = it.call(publish(it, "sleep"))
    old, new = await function.spawn.aio(0.01), await function.spawn.aio(0.02)
    assert [await function.get.aio(old), await function.get.aio(new)] == [0.01, 0.02]
    await age(it, old, OUTPUTS_KEPT - 600.0)
    assert await function.get.aio(old) == 0.01
    await age(it, old, 1200.0)
    for _ in range(2):
        with pytest.raises(OutputExpiredError, match="kept for seven days") as caught:
            await function.get.aio(old, timeout=0)
        assert isinstance(caught.value, TimeoutError)
        await it.store.calls.expire(time.time() - OUTPUTS_KEPT)
    assert await function.get.aio(new) == 0.02


async def age(it: Rig, call_id: str, seconds: float) -> None:
    """Make a call and its results that much older."""
    number = "(SELECT number FROM calls WHERE call_id = ?)"
    for statement in (
        f"UPDATE calls SET changed_at = changed_at - ? WHERE number = {number}",
        f"UPDATE outputs SET finished_at = finished_at - ? WHERE key >> 32 = {number}",
    ):
        await it.store.database.execute(statement, (seconds, call_id))


async def test_a_map_with_exceptions(it: Rig, tmp_path: Path) -> None:
    function = it.call(publish(it, "raise_own"))
    got = [error async for error in function.map.aio(["plain", "plain"], return_exceptions=True)]
    assert [str(error) for error in got] == [str(error) for error in got]
    assert Counter(type(error).__name__ for error in got) == {"UserCodeException": 2}
    assert repr(got[0]) == "UserCodeException(ZeroDivisionError('by nothing'))"
