"""Functions by name, their variants, their autoscaler, their numbers."""

from __future__ import annotations

from intermodal.server.ports import CallsPort
from intermodal.server.principal import Principal
from intermodal.server.services.apps import Apps
from intermodal.server.services.publishing import check_spec
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.variants import apply, variant_id, variant_of
from intermodal.server.store.functions import FunctionRow, FunctionStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.function import (
    Autoscaler,
    FunctionBind,
    FunctionHandle,
    FunctionLookup,
    FunctionStats,
    FunctionUpdateAutoscaler,
)


class Functions:
    def __init__(self, store: FunctionStore, apps: Apps, secrets: Secrets, calls: CallsPort) -> None:
        self._store = store
        self._apps = apps
        self._secrets = secrets
        self._calls = calls

    async def lookup(self, message: FunctionLookup, principal: Principal) -> FunctionHandle:
        """A function of a deployed app. Fault: not-found."""
        app = await self._apps.lookup(message.app_name, message.environment, False, principal)
        row = await self._store.by_name(app.app_id, message.name)
        if row is None or app.app_id not in self._apps.live:
            raise Fault(
                Code.NOT_FOUND,
                f"App {message.app_name!r} has no function or class named {message.name!r}: "
                "is the deployment up to date?",
            )
        return self._apps.handle(row, app)

    async def bind(self, message: FunctionBind) -> FunctionHandle:
        """A variant; equal requests give the same one. Faults: not-found, invalid."""
        base = await self.get(message.function_id)
        if base.base_id:  # a variant of a variant differs from the base by both
            raise Fault(Code.INVALID, f"{base.name} is a variant already: ask for all options at once")
        app = self._apps.running(base.app_id)
        variant = variant_of(message)
        if not variant and not message.parameters:
            return self._apps.handle(base, app)
        function_id = variant_id(base.function_id, variant, message.parameters)
        known = await self._store.get(function_id)
        if known is not None and known.active:
            return self._apps.handle(known, app)
        await self._secrets.check(set(message.secret_ids))
        spec = apply(base.spec, variant)
        check_spec(spec)
        await self._calls.check_room([spec])
        row = FunctionRow(
            function_id, base.app_id, base.name, spec, base.version, True, base.function_id, variant, message.parameters
        )
        await self._store.put([row])
        self._calls.functions_changed(base.app_id, [(function_id, spec)], [])
        return self._apps.handle(row, app)

    async def update_autoscaler(self, message: FunctionUpdateAutoscaler) -> None:
        """Until the next publication. Faults: not-found, invalid."""
        row = await self.get(message.function_id)
        old = row.spec.autoscaler
        row.spec.autoscaler = Autoscaler(
            old.min_containers if message.min_containers is None else message.min_containers,
            old.max_containers if message.max_containers is None else message.max_containers,
            old.buffer_containers if message.buffer_containers is None else message.buffer_containers,
            old.scaledown_window if message.scaledown_window is None else message.scaledown_window,
        )
        check_spec(row.spec)
        await self._store.put([row])
        self._calls.update_autoscaler(row.function_id, row.spec.autoscaler)

    def stats(self, function_id: str) -> FunctionStats:
        """Fault: not-found."""
        backlog, runners = self._calls.function_stats(function_id)
        return FunctionStats(backlog, runners)

    async def get(self, function_id: str) -> FunctionRow:
        """A function that takes calls. Fault: not-found."""
        row = await self._store.get(function_id)
        if row is None or not row.active:
            raise Fault(
                Code.NOT_FOUND,
                f"function {function_id} does not exist, or its app was stopped; if that was deployed again, look "
                "the function up anew",
            )
        return row
