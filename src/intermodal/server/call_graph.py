"""Who called whom: the graph of a call's inputs, from what is stored and what is in memory."""

from __future__ import annotations

from collections.abc import Mapping

from intermodal.server.dispatch import Dispatch
from intermodal.server.inputs import Call, split_input_id
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


class CallGraphs:
    """Answers CallGraphGet."""

    def __init__(self, store: CallStore, calls: Mapping[str, Call], dispatch: Dispatch) -> None:
        self._store = store
        self._calls = calls
        self._dispatch = dispatch

    def register(self, handlers: Handlers) -> None:
        handlers.unary(CallGraphGet)(self._get)

    async def _get(self, connection: Connection, message: CallGraphGet) -> CallGraph:
        nodes = [
            CallGraphNode(
                f"in-{row.call_id[3:]}-{row.index}", row.call_id, row.container_id,
                PENDING if row.status is None else _STATUS.get(row.status, PENDING),
                *self._names(row.function_id), row.parent_input_id,
            )
            for row in await self._store.graph(message.call_id)
        ]  # fmt: skip
        known = {node.function_call_id for node in nodes} | {message.call_id}
        nodes.extend(self._in_memory(known))
        if not nodes:
            raise Fault(Code.NOT_FOUND, f"there is no function call {message.call_id}")
        return CallGraph(nodes)

    def _in_memory(self, known: set[str]) -> list[CallGraphNode]:
        """Inputs that run now below the calls known so far (or are one of them)."""
        nodes = []
        grew = True
        taken: set[str] = set()
        while grew:
            grew = False
            for call in self._calls.values():
                parent = split_input_id(call.parent_input_id)[0]
                if call.id in taken or (call.id not in known and parent not in known):
                    continue
                taken.add(call.id)
                known.add(call.id)
                grew = True
                for held in call.inputs.values():
                    container = held.container.id if held.container is not None else ""
                    nodes.append(
                        CallGraphNode(
                            held.input_id, call.id, container, PENDING, *self._names(call.function_id),
                            call.parent_input_id,
                        )
                    )  # fmt: skip
        return nodes

    def _names(self, function_id: str) -> tuple[str, str]:
        function = self._dispatch.functions.get(function_id)
        return ("", "") if function is None else (function.name, function.spec.module)
