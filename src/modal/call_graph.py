"""The tree of inputs that a call led to."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class InputStatus(IntEnum):
    """Enum representing status of a function input."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    INIT_FAILURE = 3
    TERMINATED = 4
    TIMEOUT = 5


class InputInfo:
    """Simple data structure storing information about a function input."""

    __slots__ = ("children", "function_call_id", "function_name", "input_id", "module_name", "status", "task_id")

    def __init__(
        self,
        input_id: str,
        function_call_id: str,
        task_id: str,
        status: InputStatus,
        function_name: str,
        module_name: str,
        children: list[InputInfo],
    ) -> None:
        self.input_id = input_id
        self.function_call_id = function_call_id
        self.task_id = task_id
        self.status = status
        self.function_name = function_name
        self.module_name = module_name
        self.children = children

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, InputInfo):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # children may change

    def __repr__(self) -> str:
        names = ("input_id", "function_call_id", "task_id", "status", "function_name", "module_name", "children")
        return f"InputInfo({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def _build_tree(nodes: list[Any]) -> list[InputInfo]:
    """The roots of the tree that the server's flat list describes."""
    infos = {
        node.input_id: InputInfo(
            node.input_id,
            node.function_call_id,
            node.task_id,
            InputStatus(node.status),
            node.function_name,
            node.module_name,
            [],
        )
        for node in nodes
    }
    roots: list[InputInfo] = []
    for node in nodes:
        parent = infos.get(node.parent_input_id)
        (roots if parent is None else parent.children).append(infos[node.input_id])
    return roots
