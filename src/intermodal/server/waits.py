"""Inputs that wait for calls of their own: the scheduler hears of it, so that what they do not use serves others."""

from __future__ import annotations

import time
from collections.abc import Callable

from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.inputs import Call, Held, split_input_id


class Wait:
    """One call for which an input waits, in the container that has made it."""

    __slots__ = ("_container_id", "_dispatch", "_held")

    def __init__(self, dispatch: Dispatch, container: Container, held: Held) -> None:
        self._dispatch = dispatch
        self._container_id = container.id
        self._held = held

    def end(self) -> None:
        """The caller has what it waited for, or waits no longer."""
        self._dispatch.scheduler.goes_on(self._container_id, self._held, time.monotonic())


class Waits:
    """`find` are the places where calls are known by their ids."""

    def __init__(self, dispatch: Dispatch, *find: Callable[[str], Call | None]) -> None:
        self._dispatch = dispatch
        self._find = find

    def begin(self, parent_input_id: str) -> Wait | None:
        """The input with this id waits for a call from now on. None where it is not known to run."""
        call_id, index = split_input_id(parent_input_id)
        for find in self._find:
            call = find(call_id)
            held = call.inputs.get(index) if call is not None else None
            if held is not None and held.container is not None and not held.over:
                self._dispatch.scheduler.waits(held.container.id, held, time.monotonic())
                return Wait(self._dispatch, held.container, held)
        return None

    def follow(self, call: Call) -> None:
        """Somebody waits for this call."""
        if call.parent_input_id and call.wait is None:
            call.wait = self.begin(call.parent_input_id)
