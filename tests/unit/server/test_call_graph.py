"""The graph of calls, from memory and from the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.server import call_graph
from intermodal.server.call_graph import CallGraphs
from intermodal.server.dispatch import Dispatch
from intermodal.server.inputs import Call, Held
from intermodal.server.scheduler import Scheduler
from intermodal.server.store.calls import NewCall, NewInput
from intermodal.server.store.store import Store
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Fault
from modal._protocol.messages.call import CallGraphGet, CallGraphNode, Status
from tests.unit.server.stored_calls import add


class Graphs:
    """What the server knows, and the question."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: dict[str, Call] = {}
        self.graphs = CallGraphs(store.calls, self.calls, Dispatch(Scheduler(lambda: "ta-1")))

    async def spawned(self, call_id: str, parent: str = "", count: int = 1) -> None:
        rows = [NewInput(index, b"", "", "") for index in range(count)]
        await add(self.store.calls, NewCall(call_id, "fu-1", parent), rows)

    def call(self, call_id: str, parent: str = "", count: int = 1, kind: str = "map") -> Call:
        """A call of which nothing is over."""
        call = self.calls[call_id] = Call(call_id, "fu-1", "ap-1", kind, parent)
        for index in range(count):
            call.inputs[index] = Held(call, index, b"x", "", "")
        return call

    def over(self, call: Call, *statuses: int) -> None:
        """Its first inputs have outputs; it is gone with the last."""
        for held, status in zip(list(call.inputs.values()), statuses, strict=False):
            del call.inputs[held.index]
            self.graphs.over(held, status)
        if not call.inputs:
            del self.calls[call.id]

    async def get(self, call_id: str) -> dict[str, CallGraphNode]:
        graph = await self.graphs._get(Connection(Handlers(), accepting=True), CallGraphGet(call_id))
        return {node.input_id: node for node in graph.nodes}


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Graphs]:
    store = await Store.open(tmp_path / "store.sqlite")
    yield Graphs(store)
    await store.close()


async def test_stored_remembered_and_running_calls_are_one_graph(it: Graphs) -> None:
    await it.spawned("fc-ROOT")
    mapped = it.call("fc-MAP", "in-ROOT-0", 3)
    it.over(mapped, Status.SUCCESS, Status.FAILURE)
    await it.spawned("fc-LEAF", "in-MAP-0")
    it.call("fc-LAST", "in-LEAF-0", kind="unary")
    it.over(it.call("fc-GONE", "in-MAP-1", kind="unary"), Status.TIMEOUT)
    await it.spawned("fc-OTHER")
    expected = {
        "in-ROOT-0": (0, ""), "in-MAP-0": (1, "in-ROOT-0"), "in-MAP-1": (2, "in-ROOT-0"), "in-MAP-2": (0, "in-ROOT-0"),
        "in-LEAF-0": (0, "in-MAP-0"), "in-LAST-0": (0, "in-LEAF-0"), "in-GONE-0": (5, "in-MAP-1"),
    }  # fmt: skip
    for asked in ("fc-ROOT", "fc-MAP", "fc-LEAF", "fc-LAST", "fc-GONE"):
        found = await it.get(asked)
        assert {name: (node.status, node.parent_input_id) for name, node in found.items()} == expected, asked
    assert set(await it.get("fc-OTHER")) == {"in-OTHER-0"}
    for unknown in ("fc-NONE", ""):
        with pytest.raises(Fault, match="there is no function call"):
            await it.get(unknown)


async def test_what_is_remembered_is_bounded(it: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_graph, "REMEMBERED", 50)
    monkeypatch.setattr(call_graph, "REMEMBERED_OF_CALL", 20)
    await it.spawned("fc-ROOT")
    for number in range(10):
        it.over(it.call(f"fc-M{number}", "in-ROOT-0", 30), *[Status.SUCCESS] * 30)
    found = await it.get("fc-ROOT")
    assert len(found) == 1 + 2 * 20, "the newest calls, and the first inputs of each"
    assert "in-M9-19" in found
    assert len(it.graphs._records) == 2
    assert it.graphs._below == {"fc-ROOT": {"fc-M8", "fc-M9"}}


async def test_a_circle_of_parents_ends(it: Graphs) -> None:
    """Clients say who their parent is: nothing that they say may keep the server busy for ever."""
    it.call("fc-A", "in-B-0")
    it.call("fc-B", "in-A-0")
    assert set(await it.get("fc-A")) == {"in-A-0", "in-B-0"}
