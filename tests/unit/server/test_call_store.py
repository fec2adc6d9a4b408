"""Spawned inputs and their outputs: nothing lost, nothing twice, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server.store.calls import (
    CANCELLED,
    EXPIRED,
    OUTPUTS_KEPT,
    Added,
    Attempts,
    CallStore,
    Finished,
    NewCall,
    NewInput,
)
from intermodal.server.store.database import Database
from modal._protocol.errors import Fault
from modal._protocol.messages.call import Status
from tests.no_room import no_room
from tests.unit.server.stored_calls import add, finish


class Clock:
    now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def calls(database: Database, clock: Clock) -> AsyncIterator[CallStore]:
    yield CallStore(database, clock)


def rows(*indexes: int) -> list[NewInput]:
    return [NewInput(index, b"args %d" % index, "", "") for index in indexes]


A, B = NewCall("fc-A", "fu-1"), NewCall("fc-B", "fu-1")


async def test_inputs_come_back_in_the_order_of_arrival(calls: CallStore) -> None:
    await add(calls, A, rows(*range(100)), last=False)
    await add(calls, B, rows(0, 1))
    await add(calls, A, rows(*range(100, 150)))
    found, cursor = [], 0
    while batch := await calls.pending("fu-1", cursor, 40):
        found += [(item.call_id, item.index) for item in batch]
        cursor = batch[-1].cursor
    expected = [("fc-A", i) for i in range(100)] + [("fc-B", 0), ("fc-B", 1)] + [("fc-A", i) for i in range(100, 150)]
    assert found == expected
    assert await calls.count_pending() == {"fu-1": 152}
    assert await calls.pending("fu-none") == []


async def test_a_cursor_misses_nothing_after_everything_was_finished(calls: CallStore) -> None:
    first = await add(calls, A, rows(0, 1, 2), last=False)
    await finish(calls, [Finished("fc-A", index, Status.SUCCESS) for index in range(3)])
    await add(calls, A, rows(3))
    assert [item.index for item in await calls.pending("fu-1", first.cursor)] == [3]


@pytest.mark.parametrize("count", [3, 64, 200])
async def test_sent_again_is_kept_once(calls: CallStore, count: int) -> None:
    added = await add(calls, A, rows(*range(count)))
    assert added.indexes == list(range(count))
    again = await add(calls, A, rows(*range(count + 2)))
    assert again.indexes == [count, count + 1]
    assert again.cursor == (await calls.pending("fu-1", 0, 1000))[-1].cursor
    assert (await add(calls, A, rows(*range(count)))).indexes == []
    assert await calls.count_pending() == {"fu-1": count + 2}


async def test_sent_again_after_it_finished_does_not_run_again(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1, 2))
    await finish(calls, [Finished("fc-A", 1, Status.SUCCESS, b"done")])
    assert (await add(calls, A, rows(0, 1, 2))).indexes == []
    assert [item.index for item in await calls.pending("fu-1")] == [0, 2]


async def test_the_first_output_stands(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1))
    assert await calls.output("fc-A", 0) is None
    await finish(calls, [Finished("fc-A", 0, Status.SUCCESS, b"first", "", "ta-1")])
    await finish(calls, [Finished("fc-A", 0, Status.FAILURE, b"second")])
    output = await calls.output("fc-A", 0)
    assert output is not None
    assert (output.status, output.value, output.container_id) == (Status.SUCCESS, b"first", "ta-1")
    assert await calls.count_pending() == {"fu-1": 1}


async def test_finish_tells_when_it_is_durable(calls: CallStore) -> None:
    await add(calls, A, rows(*range(130)))
    told: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    calls.finish([Finished("fc-A", index, Status.SUCCESS, b"%d" % index) for index in range(130)], told.set_result)
    assert await told is None
    assert await calls.count_pending() == {}
    output = await calls.output("fc-A", 129)
    assert output is not None
    assert output.value == b"129"


async def test_an_output_of_an_unknown_call_is_ignored(calls: CallStore) -> None:
    await finish(calls, [Finished("fc-gone", 0, Status.SUCCESS)])
    assert await calls.output("fc-gone") is None
    assert await calls.call("fc-gone") is None


async def test_cancel_ends_what_has_no_output_and_takes_no_more(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1, 2), last=False)
    await add(calls, B, rows(0))
    await finish(calls, [Finished("fc-A", 1, Status.SUCCESS, b"done")])
    assert await calls.cancel("fc-A", b"cancelled") == 2
    assert await calls.cancel("fc-A", b"cancelled") == 0
    assert await calls.cancel("fc-none") == 0
    outputs = [await calls.output("fc-A", index) for index in range(3)]
    assert [output and output.status for output in outputs] == [Status.TERMINATED, Status.SUCCESS, Status.TERMINATED]
    added = await add(calls, A, rows(3))
    assert added.cancelled
    assert added.indexes == []
    call = await calls.call("fc-A")
    assert call is not None
    assert call.state == CANCELLED
    assert await calls.count_pending() == {"fu-1": 1}


async def test_a_stopped_function_fails_its_inputs(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1))
    await add(calls, NewCall("fc-C", "fu-2"), rows(0))
    assert await calls.fail_function(["fu-1", "fu-unknown"], Status.TERMINATED, b"stopped") == 2
    output = await calls.output("fc-A", 1)
    assert output is not None
    assert output.value == b"stopped"
    assert await calls.count_pending() == {"fu-2": 1}


async def test_outputs_expire_after_seven_days(calls: CallStore, clock: Clock) -> None:
    await add(calls, A, rows(*range(70)))
    await finish(calls, [Finished("fc-A", index, Status.SUCCESS, b"x") for index in range(70)])
    clock.now += OUTPUTS_KEPT - 10
    await add(calls, B, rows(0))
    assert await calls.expire(clock.now - OUTPUTS_KEPT) == []
    clock.now += 20
    output = await calls.output("fc-A", 3)
    assert output is not None
    assert output.expired
    assert await calls.expire(clock.now - OUTPUTS_KEPT) == ["fc-A"]
    assert await calls.output("fc-A", 3) is None
    call = await calls.call("fc-A")
    assert call is not None
    assert call.state == EXPIRED
    assert await calls.count_pending() == {"fu-1": 1}
    clock.now += 30 * 86400
    await calls.expire(clock.now - OUTPUTS_KEPT)
    assert await calls.call("fc-A") is None


async def test_attempts_survive(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1))
    await calls.set_attempts([("fc-A", 1, Attempts(3, "ta-1/7")), ("fc-none", 0, Attempts(1, "ta-1/8"))])
    assert [item.attempts for item in await calls.pending("fu-1")] == [0, 3]
    one = await calls.input("fc-A", 1)
    assert one is not None
    assert (one.index, one.attempts, one.args) == (1, 3, b"args 1")
    await finish(calls, [Finished("fc-B", 0, Status.SUCCESS, b"")])
    assert await calls.without_output(["in-A-0", "in-A-1", "in-none-0"]) == {
        "in-A-0": Attempts(0, ""),
        "in-A-1": Attempts(3, "ta-1/7"),
    }


async def test_the_graph_has_everything_below_a_call(calls: CallStore) -> None:
    await add(calls, A, rows(0, 1))
    await add(calls, NewCall("fc-child", "fu-2", "in-A-1"), rows(0))
    await add(calls, NewCall("fc-grandchild", "fu-1", "in-child-0"), rows(0))
    await add(calls, B, rows(0))
    await finish(calls, [Finished("fc-child", 0, Status.SUCCESS, b"", "", "ta-7")])
    graph = await calls.graph(["fc-A"])
    assert {(item.call_id, item.index, item.status) for item in graph} == {
        ("fc-A", 0, None), ("fc-A", 1, None), ("fc-child", 0, Status.SUCCESS), ("fc-grandchild", 0, None),
    }  # fmt: skip
    child = next(item for item in graph if item.call_id == "fc-child")
    assert (child.parent_input_id, child.container_id, child.function_id) == ("in-A-1", "ta-7", "fu-2")
    assert await calls.children(["fc-A"]) == ["fc-child"]
    below = await calls.graph(["fc-child"])
    assert {item.call_id for item in below} == {"fc-child", "fc-grandchild"}
    await add(calls, NewCall("fc-other", "fu-1", "in-unstored-3"), rows(0))
    assert [item.call_id for item in await calls.graph(["fc-unstored"])] == ["fc-other"], (
        "the call between is not stored"
    )
    assert await calls.graph(["fc-none", ""]) == []


async def test_values_that_no_row_names_any_more_are_told(calls: CallStore, clock: Clock) -> None:
    told: list[str] = []
    calls.forget_values = told.extend
    await add(calls, A, [NewInput(0, b"", "vl-in0"), NewInput(1, b"x"), NewInput(2, b"", "vl-in2")])
    await add(calls, B, [NewInput(0, b"", "vl-b")])
    await finish(calls, [Finished("fc-A", 0, Status.SUCCESS, b"", "vl-out0"), Finished("fc-A", 1, Status.SUCCESS)])
    assert told == ["vl-in0"]
    await calls.cancel("fc-A")
    assert told == ["vl-in0", "vl-in2"]
    await calls.fail_function(["fu-1"], Status.TERMINATED, b"")
    assert told == ["vl-in0", "vl-in2", "vl-b"]
    clock.now += OUTPUTS_KEPT + 1
    await calls.expire(clock.now - OUTPUTS_KEPT)
    assert told == ["vl-in0", "vl-in2", "vl-b", "vl-out0"]


async def test_blobs_belong_to_the_rows_that_name_them(calls: CallStore) -> None:
    await add(calls, A, [NewInput(0, b"", "vl-in", ""), NewInput(1, b"", "", "")])
    assert await calls.blobs_in_use(["vl-in", "vl-out", ""]) == {"vl-in"}
    await finish(calls, [Finished("fc-A", 0, Status.SUCCESS, b"", "vl-out")])
    assert await calls.blobs_in_use(["vl-in", "vl-out"]) == {"vl-out"}


async def test_order_goes_on_after_a_restart(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "restarted.sqlite")
    await add(CallStore(database), A, rows(*range(10)), last=False)
    await database.close()
    database = await Database.open(tmp_path / "restarted.sqlite")
    calls = CallStore(database)
    await add(calls, A, rows(10))
    assert [item.index for item in await calls.pending("fu-1")] == list(range(11))
    call = await calls.call("fc-A")
    assert call is not None
    assert call.closed
    await database.close()


async def test_what_could_not_be_committed_is_not_taken_for_stored(tmp_path: Path, clock: Clock) -> None:
    database = await Database.open(tmp_path / "full.sqlite", prepares=False)
    calls, forgotten = CallStore(database, clock), []
    calls.forget_values = forgotten.extend
    await add(calls, A, [NewInput(0, b"", "va-large")])
    heard: asyncio.Queue[tuple[Added | None, Exception | None]] = asyncio.Queue()
    with no_room(database.path):
        calls.add_spawned_soon(B, rows(0), True, lambda *outcome: heard.put_nowait(outcome))
        added, error = await heard.get()
        assert added is None
        assert isinstance(error, Fault)
        with pytest.raises(Fault):
            await finish(calls, [Finished("fc-A", 0, Status.SUCCESS, b"1")])
    assert await calls.call("fc-B") is None
    assert forgotten == [], "the input that has it must run again"
    assert await calls.input("fc-A", 0) is not None
    await finish(calls, [Finished("fc-A", 0, Status.SUCCESS, b"1")])
    assert forgotten == ["va-large"]
    await database.close()
