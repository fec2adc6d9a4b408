"""When schedules are due, and that each time is used once, also across restarts."""

from __future__ import annotations

import asyncio
import math
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modal
from intermodal.server.schedules import schedules as module
from intermodal.server.schedules.recurrence import NEVER, SHORTEST, check, next_time
from intermodal.server.schedules.schedules import NO_ARGUMENTS, Schedules
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        (modal.Cron("0 8 * * 1"), at(2026, 1, 1), at(2026, 1, 5, 8)),
        (modal.Cron("* * * * *"), at(2026, 1, 1, 0, 0, 59), at(2026, 1, 1, 0, 1)),
        (modal.Cron("0 0 29 2 *"), at(2025, 3, 1), at(2028, 2, 29)),
        (modal.Cron("0 12 * jan-mar sun,7"), at(2026, 1, 1), at(2026, 1, 4, 12)),
        (modal.Cron("*/20 23 31 12 *"), at(2026, 12, 31, 23, 20), at(2026, 12, 31, 23, 40)),
        (modal.Period(hours=5), at(2026, 1, 1), at(2026, 1, 1, 5)),
        (modal.Period(hours=5), at(2026, 1, 1, 5), at(2026, 1, 1, 10)),
        (modal.Period(days=1, seconds=0.5), at(2026, 1, 1, 12), at(2026, 1, 2) + 0.5),
        (modal.Period(months=1), at(2026, 1, 1), at(2026, 2, 1)),
        (modal.Period(years=1, days=1), at(2026, 6, 1), at(2027, 1, 2)),
        (modal.Period(seconds=0.001), at(2026, 1, 1), at(2026, 1, 1) + SHORTEST),
    ],
    ids=repr,
)
def test_next(schedule: modal.Cron | modal.Period, after: float, due: float) -> None:
    check(schedule._to_spec(), "f")
    assert next_time(schedule._to_spec(), at(2026, 1, 1), after) == due


def test_months_that_are_shorter() -> None:
    monthly, base = {"period": {"months": 1}}, at(2027, 12, 31, 9)
    times = [base]
    while len(times) < 5:
        times.append(next_time(monthly, base, times[-1]))
    assert times[1:] == [at(2028, 1, 31, 9), at(2028, 2, 29, 9), at(2028, 3, 31, 9), at(2028, 4, 30, 9)]


periods = st.fixed_dictionaries(
    {},
    optional={
        "years": st.integers(0, 3),
        "months": st.integers(0, 20),
        "days": st.integers(0, 40),
        "hours": st.integers(0, 100),
        "seconds": st.floats(0, 1e5),
    },
).filter(lambda parts: any(parts.values()))


@settings(deadline=None)
@given(period=periods, base=st.floats(0, 4e9), gone=st.floats(0, 4e8))
def test_a_period_has_no_drift_and_leaves_nothing_out(period: dict[str, Any], base: float, gone: float) -> None:
    """Asked at any time, the answer is the first of the same series of times that is later."""
    spec = {"period": period}
    check(spec, "f")
    first = next_time(spec, base, base)
    assert first > base
    due = next_time(spec, base, base + gone)
    assert due > base + gone
    if due < NEVER and due - base < 3 * 365 * 86400:
        assert next_time(spec, base, math.nextafter(due, -math.inf)) == due
        assert next_time(spec, base, (base + gone + due) / 2) in (due, next_time(spec, base, due))


@pytest.mark.parametrize(
    "spec",
    [{"cron": "* * * *"}, {"cron": "61 * * * *"}, {"period": {}}, {}, {"cron": "0 0 30 2 *"}, {"cron": "a b c d e"}],
)
def test_no_schedule(spec: dict[str, Any]) -> None:
    with pytest.raises(Fault, match="cannot be used") as caught:
        check(spec, "f")
    assert caught.value.code == Code.INVALID


class Started:
    """What was started."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.known: set[str] = set()
        self.waiting = 0
        self.fault: Fault | None = None
        self.told = asyncio.Event()

    async def start(self, function_id: str, args: bytes, call_id: str) -> bool:
        assert pickle.loads(args) == ((), {})
        if self.fault is not None:
            self.told.set()
            raise self.fault
        self.told.set()
        if call_id in self.known:
            return False
        self.known.add(call_id)
        self.calls.append(function_id)
        return True

    def pending(self, _function_id: str) -> int:
        return self.waiting


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "store.sqlite")
    yield made
    await made.close()


def row(function_id: str, schedule: modal.Cron | modal.Period | None) -> FunctionRow:
    spec = FunctionSpec(function_id, "m", function_id, image_id="im-1", resources=Resources(), autoscaler=Autoscaler())
    spec.schedule = schedule._to_spec() if schedule is not None else None
    return FunctionRow(function_id, "ap-1", function_id, spec, 1, True, "", {}, b"")


async def run_until(schedules: Schedules, store: Store, told: asyncio.Event) -> None:
    """Until nothing is due any more."""
    task = asyncio.create_task(schedules.run())
    await told.wait()
    while min(kept.due for kept in await store.schedules.all()) <= module.time.time():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def test_what_was_missed_runs_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = at(2026, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    started = Started()
    first = Schedules(store.schedules, started.start, started.pending)
    await first.published("ap-1", [row("fu-1", modal.Period(hours=1)), row("fu-2", None)], True)
    now += 10.5 * 3600  # no server ran
    again = Schedules(store.schedules, started.start, started.pending)
    await again.open()
    await run_until(again, store, started.told)
    assert started.calls == ["fu-1"]
    assert [(kept.function_id, kept.due) for kept in await store.schedules.all()] == [("fu-1", at(2026, 1, 1, 11))]
    started.told.clear()
    now = at(2026, 1, 1, 11)
    await run_until(again, store, started.told)
    assert started.calls == ["fu-1", "fu-1"]


async def test_a_new_deployment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A period begins anew, a cron expression goes on; what has no schedule any more does not run."""
    now = at(2026, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    schedules = Schedules(store.schedules, Started().start, lambda _id: 0)

    async def due() -> dict[str, float]:
        return {kept.function_id: kept.due for kept in await store.schedules.all()}

    period, cron = row("fu-p", modal.Period(days=1)), row("fu-c", modal.Cron("0 12 * * *"))
    await schedules.published("ap-1", [period, cron], True)
    now = at(2026, 1, 1, 18)
    await schedules.published("ap-1", [period, cron], True)
    assert await due() == {"fu-p": at(2026, 1, 2, 18), "fu-c": at(2026, 1, 1, 12)}
    await schedules.published("ap-1", [row("fu-c", modal.Cron("0 6 * * *"))], True)
    assert await due() == {"fu-c": at(2026, 1, 2, 6)}
    await schedules.published("ap-2", [row("fu-x", modal.Period(days=1))], False)  # `modal run`
    await schedules.stopped("ap-1")
    assert await due() == {}


async def test_runs_that_cannot_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is behind, or gone, does not stop the others."""
    now = at(2026, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    started = Started()
    schedules = Schedules(store.schedules, started.start, started.pending)
    await schedules.published("ap-1", [row("fu-1", modal.Period(hours=1))], True)
    started.fault = Fault(Code.NOT_FOUND, "gone")
    now += 3600
    await run_until(schedules, store, started.told)
    started.fault, started.waiting = None, module.BACKLOG
    now += 3600
    task = asyncio.create_task(schedules.run())
    while (await store.schedules.all())[0].due < at(2026, 1, 1, 3):
        await asyncio.sleep(0.01)
    task.cancel()
    assert started.calls == []


async def test_a_full_disk_ends_no_schedule(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be stored is tried again, whichever of the two writes failed; nothing runs twice."""
    now = at(2026, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    started = Started()
    schedules = Schedules(store.schedules, started.start, started.pending)
    await schedules.published("ap-1", [row("fu-1", modal.Period(hours=1))], True)
    full = Fault(Code.EXHAUSTED, "the disk is full")
    started.fault = full
    task = asyncio.create_task(schedules.run())
    now += 3600
    schedules._changed.set()
    await started.told.wait()
    assert started.calls == []
    kept, refused = store.schedules.due, asyncio.Event()

    async def refuse(_row: object) -> None:
        refused.set()
        raise full

    monkeypatch.setattr(store.schedules, "due", refuse)
    started.fault = None  # the next try stores the call, and then the disk is full again
    await refused.wait()
    assert started.calls == ["fu-1"]
    monkeypatch.setattr(store.schedules, "due", kept)
    now += 3600
    schedules._changed.set()
    while (await store.schedules.all())[0].due < at(2026, 1, 1, 3):
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    assert started.calls == ["fu-1", "fu-1"]
    task.cancel()


async def test_a_server_that_dies_between_the_two_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one does not start it a second time, and makes up for what came due meanwhile, once."""
    now = at(2026, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    started = Started()
    first = Schedules(store.schedules, started.start, started.pending)
    await first.published("ap-1", [row("fu-1", modal.Period(hours=1))], True)
    (before,) = await store.schedules.all()
    now += 3600
    await run_until(first, store, started.told)
    assert started.calls == ["fu-1"]
    for later, calls in ((0, 1), (3.5 * 3600, 2)):
        await store.schedules.due(before)  # as if that write had not come about
        now += later
        started.told.clear()
        again = Schedules(store.schedules, started.start, started.pending)
        await again.open()
        task = asyncio.create_task(again.run())
        while (await store.schedules.all())[0].due <= now:
            await asyncio.sleep(0.01)
        task.cancel()
        assert len(started.calls) == calls


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_that_was_ahead(store: Store, monkeypatch: pytest.MonkeyPatch, restarted: bool) -> None:
    """What is due does not wait for the wrong time to come again; what has run under it does not run again."""
    now = at(2030, 1, 1)
    monkeypatch.setattr(module.time, "time", lambda: now)
    started = Started()
    schedules = Schedules(store.schedules, started.start, started.pending)
    rows = [row("fu-p", modal.Period(hours=1)), row("fu-c", modal.Cron("0 * * * *"))]
    await schedules.published("ap-1", rows, True)
    now += 3600
    task = asyncio.create_task(schedules.run())
    while {kept.due for kept in await store.schedules.all()} != {at(2030, 1, 1, 2)}:
        await asyncio.sleep(0.01)
    assert sorted(started.calls) == ["fu-c", "fu-p"]
    now = at(2026, 1, 1, 0, 20)
    if restarted:
        task.cancel()
        schedules = Schedules(store.schedules, started.start, started.pending)
        await schedules.open()
        task = asyncio.create_task(schedules.run())
    schedules._changed.set()
    while any(kept.due > at(2026, 1, 1, 2) for kept in await store.schedules.all()):
        await asyncio.sleep(0.01)
    due = {kept.function_id: kept.due for kept in await store.schedules.all()}
    assert due == {"fu-p": at(2026, 1, 1, 1, 20), "fu-c": at(2026, 1, 1, 1)}
    now = at(2030, 1, 1, 1)
    schedules._changed.set()
    while any(kept.due < now for kept in await store.schedules.all()):
        await asyncio.sleep(0.01)
    assert started.calls.count("fu-c") == 2, "the time that has run already does not run again"
    assert started.calls.count("fu-p") == 2
    task.cancel()


def test_arguments_are_none() -> None:
    assert pickle.loads(NO_ARGUMENTS) == ((), {})
