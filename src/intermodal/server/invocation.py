"""The invocation path as one piece: scheduler, dispatch, calls, spawned calls and workers, wired together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from intermodal.server.call_graph import CallGraphs
from intermodal.server.calls import Calls
from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.draining import Draining
from intermodal.server.function_rules import request_of
from intermodal.server.ids import new_id
from intermodal.server.inputs import Held
from intermodal.server.lending import Lending
from intermodal.server.notices import Notices
from intermodal.server.scheduler import Scheduler
from intermodal.server.spawns import Spawns
from intermodal.server.store.calls import CallStore
from intermodal.server.store.fleet import FleetStore
from intermodal.server.workers import Workers
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.call import CallFailure
from modal._protocol.messages.container import ContainerInfo
from modal._protocol.messages.function import Autoscaler, FunctionSpec
from modal._protocol.messages.image import BuildLog
from modal._protocol.messages.log import LogEntry, Stream
from modal._protocol.messages.worker import ContainerSpec, WorkerImageBuilt

STOP_SECONDS = 45.0  # how long the stop of an app waits for its containers


class Invocation:
    """What the services see: it implements both ports of `ports`.

    `prepare` makes the ContainerSpec of a new container, `may_call` raises Fault unless a connection may use
    a function, `append_logs(app_id, entries)` and `log_seq(app_id)` are those of the log service, and
    `ephemeral(app_id)` says whether an app ends with its client. `secure_value(blob)` blocks until a large value is
    on the disk for good, `forget_values(blobs)` deletes those that no call needs again.
    """

    def __init__(
        self,
        store: CallStore,
        fleet: FleetStore,
        prepare: Callable[[Container], Awaitable[ContainerSpec]],
        may_call: Callable[[Connection, str], None],
        append_logs: Callable[[str, list[LogEntry]], None],
        log_seq: Callable[[str], int],
        ephemeral: Callable[[str], bool],
        last_log_numbers: Callable[[str], dict[str, int]] = lambda _app_id: {},
        secure_value: Callable[[str], object] = lambda _blob: None,
        forget_values: Callable[[Iterable[str]], None] = lambda _blobs: None,
    ) -> None:
        self.dispatch = Dispatch(Scheduler(lambda: new_id("ta")))
        self.spawns = Spawns(store, self.dispatch, may_call, log_seq)
        self.calls = Calls(self.dispatch, may_call, log_seq, self.spawns)
        self.spawns.secure_value = secure_value
        self.dispatch.forget_values = self.calls.delivery.forget_values = store.forget_values = forget_values
        self.workers = Workers(
            self.dispatch,
            prepare,
            append_logs,
            self.calls.adopt,
            self.spawns.spawned_inputs,
            self.spawns.adopt,
            last_log_numbers,
        )
        self.lending = Lending(self.dispatch)
        self.draining = Draining(fleet, self.dispatch, self.workers)
        self.graphs = CallGraphs(store, self.calls.calls, self.dispatch)
        self.calls.over = self.graphs.over
        self._ephemeral = ephemeral
        self._append_logs = append_logs
        self._gone: dict[str, list[asyncio.Future[None]]] = {}
        self.on_change: Callable[[str], None] = lambda _app_id: None
        self.dispatch.changed = self._changed
        self.dispatch.system_log = self._system_log
        self.spawns.report = self._report

    def register(self, handlers: Handlers) -> None:
        """Answer the messages of calls and workers."""
        self.calls.register(handlers)
        self.spawns.register(handlers)
        self.workers.register(handlers)
        self.graphs.register(handlers)
        self.lending.register(handlers)
        self.draining.register(handlers)

    async def open(self, expect_workers: bool) -> None:
        """Before the first connection. `expect_workers`: containers may still run from before."""
        await self.draining.open()
        await self.spawns.open()
        self.workers.pause_until_recovered(expect_workers)

    # -- CallsPort
    def functions_changed(self, app_id: str, functions: list[tuple[str, FunctionSpec]], removed: list[str]) -> None:
        """See ports.CallsPort."""
        ephemeral = self._ephemeral(app_id)
        for function_id, spec in functions:
            self.dispatch.put_function(function_id, app_id, spec, ephemeral, again=not ephemeral)
            self.spawns.function_added(function_id)
        for function_id in removed:
            self.dispatch.retire_function(function_id)

    async def check_room(self, specs: list[FunctionSpec]) -> None:
        """See ports.CallsPort."""
        capacity = self.dispatch.scheduler.capacity
        if not capacity.workers and any(spec.resources.gpu for spec in specs):
            await self.workers.available()
        for spec in specs:
            problem = capacity.problem(request_of(spec))
            if not problem:
                continue
            if spec.resources.gpu:
                problem += (
                    ". Leave gpu= out, ask for what there is, or let the worker pretend: set "
                    f'INTERMODAL_SIMULATED_GPUS="{spec.resources.gpu[0]}" and start it again, and containers get no '
                    "device but run"
                )
            raise Fault(Code.INVALID, f"{spec.name}: {problem}")

    async def stop_app(self, app_id: str, force: bool = False) -> None:
        """See ports.CallsPort."""
        ids = list(self.dispatch.of_app.get(app_id, {}))
        self.calls.drop_app(app_id)
        await self.spawns.fail_functions(ids, "the app was stopped")
        for function_id in ids:
            self.dispatch.remove_function(function_id, "the app was stopped")
        await self.spawns.fail_functions(ids, "the app was stopped")  # what was spawned meanwhile
        mine = [container for container in self.dispatch.containers.values() if container.function.app_id == app_id]
        if force:
            for container in mine:
                self.dispatch.kill_container(container, 0.0, "the app was stopped")
        if mine:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._gone.setdefault(app_id, []).append(gone)
            await asyncio.wait([gone], timeout=STOP_SECONDS)

    def stats(self, app_id: str) -> dict[str, list[int]]:
        """See ports.CallsPort."""
        return self.dispatch.stats(app_id)

    def notices(self, app_id: str) -> list[str]:
        """See ports.CallsPort."""
        return Notices(self.dispatch).of_app(app_id)

    def app_idle(self, app_id: str) -> bool:
        """See ports.CallsPort."""
        for function in self.dispatch.of_app.get(app_id, {}).values():
            pool = function.pool
            if pool.queue or pool.assigned or pool.backlog or self.spawns.pending(function.function_id):
                return False
        return True

    def function_stats(self, function_id: str) -> tuple[int, int]:
        """See ports.CallsPort."""
        pool = self.dispatch.function(function_id).pool
        return len(pool.queue) + pool.backlog, pool.ready

    def update_autoscaler(self, function_id: str, autoscaler: Autoscaler) -> None:
        """See ports.CallsPort."""
        function = self.dispatch.function(function_id)
        spec = from_json(FunctionSpec, to_json(function.spec)) if not function.spec.serialized else function.spec
        spec.autoscaler = autoscaler
        self.dispatch.rescale_function(function_id, spec)

    # -- WorkersPort
    async def build_image(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        secrets: dict[str, dict[str, str]],
        ignore_cache: bool,
        on_log: Callable[[BuildLog], None],
        environment: str,
    ) -> WorkerImageBuilt:
        """See ports.WorkersPort."""
        return await self.workers.build_image(image_id, recipe, secrets, ignore_cache, on_log, environment)

    def containers(self, app_id: str = "") -> list[ContainerInfo]:
        """See ports.WorkersPort."""
        return [
            ContainerInfo(
                container.id, container.function.app_id, "", container.function.name, container.state,
                container.started_at, container.worker_id,
            )
            for container in self.dispatch.containers.values()
            if not app_id or container.function.app_id == app_id
        ]  # fmt: skip

    def container(self, container_id: str) -> tuple[str, str] | None:
        """See ports.WorkersPort."""
        container = self.dispatch.containers.get(container_id)
        return None if container is None else (container.function.app_id, container.function.function_id)

    async def stop_container(self, container_id: str) -> None:
        """See ports.WorkersPort."""
        self.workers.stop_container(container_id)

    async def sync_volume(self, container_id: str, volume_id: str, action: str, worker_id: str = "") -> None:
        """See ports.WorkersPort."""
        await self.workers.sync_volume(container_id, volume_id, action, worker_id)

    def volume_changed(self, volume_id: str) -> None:
        """See ports.WorkersPort."""
        self.workers.volume_changed(volume_id)

    def timings(self, container_id: str) -> dict[str, float] | None:
        """See ports.WorkersPort."""
        return self.workers.timings(container_id)

    def describe(self) -> list[dict[str, Any]]:
        """See ports.WorkersPort."""
        return self.workers.describe()

    async def stop(self, keep_containers: bool) -> None:
        """See ports.WorkersPort."""
        await self.workers.stop_all(keep_containers)

    # -- inside
    def _changed(self, app_id: str) -> None:
        waiting = self._gone.get(app_id)
        if waiting and not any(c.function.app_id == app_id for c in self.dispatch.containers.values()):
            for gone in self._gone.pop(app_id):
                if not gone.done():
                    gone.set_result(None)
        self.on_change(app_id)

    def _report(self, held: Held, failure: CallFailure) -> None:
        """A run that nobody waits for has failed: the app's logs say so."""
        function = self.dispatch.functions.get(held.call.function_id)
        if function is None:
            return
        text = failure.traceback or f"{failure.type_name}: {failure.text}".strip(": ")
        container_id = held.container.id if held.container is not None else ""
        entry = LogEntry(
            time.time(), Stream.SYSTEM, f"{text.rstrip()}\nThe scheduled run of {function.name} failed.\n",
            held.input_id, container_id, function.function_id, function.name,
        )  # fmt: skip
        self._append_logs(function.app_id, [entry])

    def _system_log(self, container: Container, text: str) -> None:
        function = container.function
        entry = LogEntry(time.time(), Stream.SYSTEM, text + "\n", "", container.id, function.function_id, function.name)
        self._append_logs(function.app_id, [entry])
