"""A function that is deployed again: its new version takes over once it is warm, its old one finishes what it has.

Until then the old version serves, and may even start containers. A new version that does not start changes nothing:
it is tried again, ever more slowly, and its log says why. Both versions have containers at the same time, so a
function's `max_containers` holds for each of the two.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modal._protocol.message import Record
from modal._protocol.messages.function import FunctionSpec

if TYPE_CHECKING:
    from intermodal.server.dispatch import Dispatch, Function
    from intermodal.server.scheduler import Rules

log = logging.getLogger("intermodal.handover")

WARM_MAX = 8  # containers of a new version that are warmed up before it takes over
WARM_SECONDS = 10.0  # how long the first of them waits for the others


class Handovers:
    """New versions that are not in force yet. `candidates` by the id of their pool."""

    def __init__(self, dispatch: Dispatch, rules_of: Callable[[FunctionSpec], Rules]) -> None:
        self.candidates: dict[str, Function] = {}
        self._dispatch = dispatch
        self._rules_of = rules_of
        self._pool_ids: dict[str, str] = {}  # function id -> pool id of its candidate
        self._timers: dict[str, asyncio.TimerHandle] = {}  # by pool id
        self._count = 0

    def begin(self, function: Function, spec: FunctionSpec) -> bool:
        """Warm up this version of the function. False where nothing of the function is warm: then it may change at
        once."""
        dispatch, now = self._dispatch, time.monotonic()
        self.drop(function.function_id)
        pool = function.pool
        if not pool.ready or dispatch.scheduler.pools.get(function.function_id) is not pool or pool.retired:
            return False
        rules = self._rules_of(spec)
        busy = pool.ready - len(pool.idle)
        count = max(1, rules.min_containers, min(busy, WARM_MAX))
        if rules.max_containers:
            count = min(count, rules.max_containers)
        self._count += 1
        pool_id = f"{function.function_id}+{self._count}"
        self._pool_ids[function.function_id] = pool_id
        candidate = self.candidates[pool_id] = function.another(spec)
        # Known before the pool is: the first container may start at once.
        dispatch.scheduler.put_candidate(pool_id, function.function_id, rules, count, now)
        candidate.pool = dispatch.scheduler.pools[pool_id]
        log.info("%s (%s): a new version warms up", function.name, function.function_id)
        dispatch.run()
        return True

    def is_candidate(self, function: Function) -> bool:
        return self.candidates.get(self._pool_ids.get(function.function_id, "")) is function

    def ready(self, function: Function) -> None:
        """A container of a new version is warm."""
        pool_id = self._pool_ids.get(function.function_id, "")
        if self.candidates.get(pool_id) is not function:
            return
        pool = function.pool
        if pool.ready >= pool.rules.min_containers:
            self._promote(pool_id)
        elif pool_id not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[pool_id] = loop.call_later(WARM_SECONDS, self._promote, pool_id)

    def _promote(self, pool_id: str) -> None:
        candidate = self._take(pool_id)
        dispatch = self._dispatch
        function = dispatch.functions.get(candidate.function_id) if candidate is not None else None
        if candidate is None or function is None:
            return
        before = function.another(function.spec)  # what still runs keeps the rules that it began with
        for container in dispatch.containers.values():
            if container.function is function:
                container.function = before
            elif container.function is candidate:
                container.function = function
        function.take_over(candidate)
        dispatch.scheduler.promote(pool_id, function.function_id, self._rules_of(function.spec), time.monotonic())
        log.info("%s (%s): the new version has taken over", function.name, function.function_id)
        dispatch.run()
        dispatch.settled()
        dispatch.changed(function.app_id)

    def drop(self, function_id: str) -> None:
        """A version that is not in force will never be."""
        pool_id = self._pool_ids.get(function_id, "")
        if self._take(pool_id) is not None:
            self._dispatch.scheduler.remove_function(pool_id, "another version was deployed, or the app was stopped")
            self._dispatch.run()

    def _take(self, pool_id: str) -> Function | None:
        timer = self._timers.pop(pool_id, None)
        if timer is not None:
            timer.cancel()
        candidate = self.candidates.pop(pool_id, None)
        if candidate is not None:
            del self._pool_ids[candidate.function_id]
        return candidate


def form_of(spec: FunctionSpec) -> str:
    """Names what a container runs: equal for specs that differ in their autoscaler alone."""
    digest = hashlib.sha256(spec.serialized)
    for name in FunctionSpec.__fields__:
        if name not in ("autoscaler", "serialized"):
            value = getattr(spec, name)
            digest.update(repr(_plain(value)).encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Without identity: records, and what is in lists and dictionaries, as their values."""
    if isinstance(value, Record):
        return [_plain(getattr(value, name)) for name in value.__fields__]
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return sorted((key, _plain(one)) for key, one in value.items())
    return value


__all__ = ["Handovers", "form_of"]
