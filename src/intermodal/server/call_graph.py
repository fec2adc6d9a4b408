"""Who called whom: the graph of a call's inputs, from what is stored and what is in memory.

Spawned inputs are stored for as long as their results. Of the others (`.remote`, `.map`, generators), those that run
are in memory anyway; of those that containers have made, a bounded number is remembered when they are over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from intermodal.server.dispatch import Dispatch
from intermodal.server.inputs import Call, Held, split_input_id
from intermodal.server.store.calls import CallStore
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import CallGraph, CallGraphGet, CallGraphNode, Status

PENDING = 0  # modal.call_graph.InputStatus
_STATUS = {
    Status.SUCCESS: 1,
    Status.EXHAUSTED: 1,
    Status.FAILURE: 2,
    Status.INIT_FAILURE: 3,
    Status.TERMINATED: 4,
    Status.TIMEOUT: 5,
}
REMEMBERED = 20_000  # inputs that are over, of all calls
REMEMBERED_OF_CALL = 1_000  # the same of one call: its first ones
DEPTH = 1_000  # calls between an input and its root
NODES = 100_000  # of one graph


class _Over(NamedTuple):
    """An input that has its final output."""

    input_id: str
    container_id: str
    status: int


class _Record:
    """What is remembered of a call."""

    __slots__ = ("function_id", "inputs", "parent_input_id")

    def __init__(self, call: Call) -> None:
        self.function_id = call.function_id
        self.parent_input_id = call.parent_input_id
        self.inputs: list[_Over] = []


class CallGraphs:
    """Answers CallGraphGet. `calls` are those in memory, by id."""

    def __init__(self, store: CallStore, calls: Mapping[str, Call], dispatch: Dispatch) -> None:
        self._store = store
        self._calls = calls
        self._dispatch = dispatch
        self._records: OrderedDict[str, _Record] = OrderedDict()  # by call id; the oldest first
        self._below: dict[str, set[str]] = {}  # call id -> remembered calls that its inputs have made
        self._count = 0

    def register(self, handlers: Handlers) -> None:
        handlers.unary(CallGraphGet)(self._get)

    def over(self, held: Held, status: int) -> None:
        """An input that another one has called for has its final output."""
        call = held.call
        record = self._records.get(call.id)
        if record is None:
            record = self._records[call.id] = _Record(call)
            self._below.setdefault(split_input_id(call.parent_input_id)[0], set()).add(call.id)
        if len(record.inputs) >= REMEMBERED_OF_CALL:
            return
        container_id = held.container.id if held.container is not None else ""
        record.inputs.append(_Over(held.input_id, container_id, status))
        self._count += 1
        while self._count > REMEMBERED:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        call_id, record = self._records.popitem(last=False)
        self._count -= len(record.inputs)
        parent = split_input_id(record.parent_input_id)[0]
        siblings = self._below.get(parent, set())
        siblings.discard(call_id)
        if not siblings:
            self._below.pop(parent, None)

    async def _get(self, connection: Connection, message: CallGraphGet) -> CallGraph:
        known = {await self._root(message.call_id)}
        nodes: dict[str, CallGraphNode] = {}
        fresh = set(known)
        while fresh and len(nodes) < NODES:
            below = self._in_memory(fresh, known, nodes)
            for row in await self._store.graph(fresh | below):
                node = CallGraphNode(
                    f"in-{row.call_id[3:]}-{row.index}", row.call_id, row.container_id,
                    PENDING if row.status is None else _STATUS.get(row.status, PENDING),
                    *self._names(row.function_id), row.parent_input_id,
                )  # fmt: skip
                nodes[node.input_id] = node
            # Stored calls may have made others, which only memory knows.
            found = {node.function_call_id for node in nodes.values()}
            fresh = found - known
            known |= found
        if not nodes:
            raise Fault(Code.NOT_FOUND, f"there is no function call {message.call_id}")
        return CallGraph(list(nodes.values())[:NODES])

    async def _root(self, call_id: str) -> str:
        """The call that has led to this one and that no input has made, as far as that is known."""
        for _ in range(DEPTH):
            call: Call | _Record | None = self._calls.get(call_id) or self._records.get(call_id)
            parent_input_id = call.parent_input_id if call is not None else ""
            if call is None:
                stored = await self._store.call(call_id)
                parent_input_id = stored.parent_input_id if stored is not None else ""
            parent = split_input_id(parent_input_id)[0]
            if not parent or not (parent in self._calls or parent in self._records or await self._store.call(parent)):
                break
            call_id = parent
        return call_id

    def _in_memory(self, roots: Iterable[str], known: set[str], nodes: dict[str, CallGraphNode]) -> set[str]:
        """Add the inputs of these calls, and of those below them, that memory has. Returns the calls found on the way,
        which are known from now on."""
        running: dict[str, list[str]] = {}
        for call in self._calls.values():
            if call.parent_input_id:
                running.setdefault(split_input_id(call.parent_input_id)[0], []).append(call.id)
        waiting = list(roots)
        found: set[str] = set()
        while waiting and len(nodes) < NODES:
            call_id = waiting.pop()
            self._add(call_id, nodes)
            for child in (*self._below.get(call_id, ()), *running.get(call_id, ())):
                if child not in known:
                    known.add(child)
                    found.add(child)
                    waiting.append(child)
        return found

    def _add(self, call_id: str, nodes: dict[str, CallGraphNode]) -> None:
        record = self._records.get(call_id)
        for over in record.inputs if record is not None else ():
            assert record is not None
            nodes[over.input_id] = CallGraphNode(
                over.input_id, call_id, over.container_id, _STATUS.get(over.status, PENDING),
                *self._names(record.function_id), record.parent_input_id,
            )  # fmt: skip
        call = self._calls.get(call_id)
        for held in call.inputs.values() if call is not None else ():
            container = held.container.id if held.container is not None else ""
            nodes[held.input_id] = CallGraphNode(
                held.input_id, held.call.id, container, PENDING, *self._names(held.call.function_id),
                held.call.parent_input_id,
            )  # fmt: skip

    def _names(self, function_id: str) -> tuple[str, str]:
        function = self._dispatch.functions.get(function_id)
        return ("", "") if function is None else (function.name, function.spec.module)
