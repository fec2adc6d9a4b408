"""Apps: created, published, detached, stopped, looked up, listed; brought back after a restart."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from intermodal.server.ids import looks_like, new_id
from intermodal.server.ports import CallsPort, WebPort
from intermodal.server.principal import Principal
from intermodal.server.schedules.schedules import Schedules
from intermodal.server.services.environments import Environments
from intermodal.server.services.logs import Logs
from intermodal.server.services.names import check_app_name
from intermodal.server.services.publishing import check_references, handle_of, plan
from intermodal.server.services.secrets import Secrets
from intermodal.server.services.sessions import Sessions
from intermodal.server.store.apps import AppRow, VersionRow, new_app
from intermodal.server.store.environments import Environment
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppCreate, AppPublish, AppPublished, AppState
from modal._protocol.messages.function import FunctionHandle

LISTED_AFTER_STOP = 2 * 3600.0  # seconds that a stopped app stays in the list
_log = logging.getLogger(__name__)


async def _leave(_mount_ids: Iterable[str]) -> None:
    return


class Apps:
    """All apps of the workspace. `live` holds those that are not stopped."""

    def __init__(
        self,
        store: Store,
        environments: Environments,
        secrets: Secrets,
        calls: CallsPort,
        logs: Logs,
        web: WebPort,
        grace: float | None = None,
    ) -> None:
        self.live: dict[str, AppRow] = {}
        self._store = store
        self._environments = environments
        self._secrets = secrets
        self._calls = calls
        self._logs = logs
        self._web = web
        self._publishing = asyncio.Lock()
        self.schedules: Schedules | None = None  # told of what is published and stopped
        self.secure_files: Callable[[Iterable[str]], Awaitable[None]] = _leave  # puts the files of mounts on the disk
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, asyncio.Event] = {}
        options = {} if grace is None else {"grace": grace}
        self.sessions = Sessions(calls.app_idle, self._session_over, **options)

    # -- the life of an app
    async def create(self, message: AppCreate, principal: Principal) -> AppRow:
        """A new ephemeral app. Faults: not-found (environment), invalid."""
        environment = self._environments.resolve(message.environment, principal)
        if message.name:
            check_app_name(message.name)
        description = message.description[:200] or message.name
        row = new_app(
            new_id("ap"), environment.environment_id, message.name, description, AppState.INITIALIZING, message.detach
        )
        await self._store.apps.add(row)
        self.live[row.app_id] = row
        self.sessions.watch(row.app_id, row.detached)
        return row

    async def publish(self, message: AppPublish, principal: Principal, rolled_back_from: int = 0) -> AppPublished:
        """All functions at once: all of it takes effect, or nothing. Faults: invalid, not-found, conflict."""
        await check_references(
            message.functions, self._store.images.known, self._store.images.known_mounts, self._secrets.check
        )
        await self._calls.check_room(message.functions)
        Schedules.check(message.functions)
        if message.deploy:  # nobody will be there to upload its files again
            await self.secure_files({mount_id for spec in message.functions for mount_id in spec.mount_ids})
        async with self._publishing:
            app = await (self._deployment(message, principal) if message.deploy else self._running(message))
            version = app.version + 1 if message.deploy else app.version
            known = await self._store.functions.of_app(app.app_id, active=False)
            planned = plan(app.app_id, version, message.functions, known)
            state = AppState.DEPLOYED if message.deploy else AppState.DETACHED if app.detached else AppState.EPHEMERAL
            app = app._replace(state=state, version=version)
            self._web.check(app, message.functions)
            record = None
            if message.deploy:
                record = VersionRow(
                    version,
                    time.time(),
                    principal.name,
                    message.software,
                    message.tag,
                    message.commit,
                    rolled_back_from,
                )
            await self._store.apps.publish(app, planned.rows, planned.removed, record)
            self.live[app.app_id] = app
            if message.deploy:
                self.sessions.forget(app.app_id)
            changed = [(row.function_id, row.spec) for row in planned.rows]
            self._calls.functions_changed(app.app_id, changed, planned.removed)
            if self.schedules is not None:
                live = message.deploy or message.schedules
                await self.schedules.published(app.app_id, planned.rows, live)
            self._web.publish(app, planned.rows)
        return AppPublished(app.app_id, self._handles(planned.rows, app), "", app.version)

    async def rollback(self, app_id: str, version: int, principal: Principal) -> AppPublished:
        """A new version that equals an earlier one (0: the last one). Faults: not-found, invalid."""
        app = self.running(app_id)
        if app.state != AppState.DEPLOYED:
            raise Fault(
                Code.INVALID, f"app {app.name or app_id} is {app.state}: only a deployed app can be rolled back"
            )
        target = version or app.version - 1
        known = {row.version: row for row in await self._store.apps.versions(app_id)}
        if target not in known or target == app.version:
            choices = ", ".join(f"v{one}" for one in sorted(known) if one != app.version)
            what = (
                f"there is no earlier version v{target}" if target != app.version else f"v{target} is in force already"
            )
            raise Fault(Code.INVALID, f"app {app.name}: {what}; it has {choices or 'no other version'}")
        specs = await self._store.apps.version_functions(app_id, target)
        old = known[target]
        message = AppPublish(
            app_id, app.name, "", specs, deploy=True, tag=old.tag, commit=old.commit, software=old.software
        )
        return await self.publish(message, principal, rolled_back_from=target)

    async def detach(self, app_id: str) -> None:
        """It goes on without a client until its inputs are done. Fault: not-found."""
        app = self.running(app_id)
        if app.state == AppState.DEPLOYED:
            return
        state = AppState.DETACHED if app.state == AppState.EPHEMERAL else app.state
        await self._store.apps.set_state(app_id, state, detached=True)
        self.live[app_id] = app._replace(state=state, detached=True)
        self.sessions.detach(app_id)

    async def stop(self, app_id: str, reason: str = "", force: bool = False) -> None:
        """Return when nothing of it runs any more. Of a stopped app: at once. Fault: not-found."""
        if app_id not in self.live:
            await self.get(app_id)
            return
        task = self._stops.get(app_id)
        if task is None:
            task = self._stops[app_id] = asyncio.create_task(self._stop(app_id, reason, force))
            task.add_done_callback(lambda _done: self._stops.pop(app_id, None))
        elif force:
            await self._calls.stop_app(app_id, force=True)
        await asyncio.shield(task)

    async def stop_environment(self, environment: Environment) -> None:
        """Stop all apps of an environment."""
        doomed = [app.app_id for app in self.live.values() if app.environment_id == environment.environment_id]
        await asyncio.gather(*(self.stop(app_id, "its environment was deleted") for app_id in doomed))

    async def readdress(self, environment_id: str) -> None:
        """The environment has another web suffix: what it serves has other addresses, and only these."""
        async with self._publishing:
            for app in [app for app in self.live.values() if app.environment_id == environment_id]:
                rows = await self._store.functions.of_app(app.app_id)
                if app.live and app.app_id in self.live:
                    self._web.publish(app, rows)

    async def ended(self, app_id: str) -> str:
        """Wait for an app's end; the reason, "" when it was stopped on request."""
        if app_id in self.live:
            await self._ended.setdefault(app_id, asyncio.Event()).wait()
        return (await self.get(app_id)).stop_reason

    async def recover(self) -> None:
        """After a start: deployed apps are there again; ephemeral ones wait for their clients."""
        for app in await self._store.apps.unfinished():
            self.live[app.app_id] = app
            rows = await self._store.functions.of_app(app.app_id)
            self._calls.functions_changed(app.app_id, [(row.function_id, row.spec) for row in rows], [])
            if app.live:
                self._web.publish(app, rows)
            if app.state == AppState.STOPPING:
                self._session_over(app.app_id, app.stop_reason)
            elif app.state != AppState.DEPLOYED:
                self.sessions.watch(app.app_id, app.detached)

    async def stop_ephemeral(self, reason: str) -> None:
        """The server is taken down on purpose: what has a client ends with it."""
        doomed = [app.app_id for app in self.live.values() if app.state != AppState.DEPLOYED]
        await asyncio.gather(*(self.stop(app_id, reason) for app_id in doomed))

    # -- questions
    def running(self, app_id: str) -> AppRow:
        """Fault(not-found) unless the app is there and not stopped."""
        app = self.live.get(app_id)
        if app is None:
            raise Fault(Code.NOT_FOUND, f"there is no running app {app_id}")
        return app

    async def get(self, app_id: str) -> AppRow:
        """An app, running or stopped. Fault: not-found."""
        app = self.live.get(app_id) or await self._store.apps.get(app_id)
        if app is None:
            raise Fault(Code.NOT_FOUND, f"there is no app {app_id}")
        return app

    async def lookup(self, name: str, environment_name: str, create: bool, principal: Principal) -> AppRow:
        """By id, or the deployed app of that name. Faults: not-found, invalid."""
        if looks_like("ap", name):
            return await self.get(name)
        environment = self._environments.resolve(environment_name, principal)
        check_app_name(name)
        async with self._publishing:
            app = await self._store.apps.deployed(environment.environment_id, name)
            if app is None and create:
                app = new_app(new_id("ap"), environment.environment_id, name, name, AppState.DEPLOYED)
                await self._store.apps.add(app)
                self.live[app.app_id] = app
        if app is None:
            raise Fault(Code.NOT_FOUND, f"App {name!r} not found in environment {environment.name!r}: deploy it first")
        return app

    async def listed(self, environment_name: str, principal: Principal) -> list[AppRow]:
        """Deployed, ephemeral, and those stopped within two hours; newest first."""
        environment = self._environments.resolve(environment_name, principal)
        return await self._store.apps.listed(environment.environment_id, time.time() - LISTED_AFTER_STOP)

    async def history(self, app_id: str) -> tuple[AppRow, list[VersionRow]]:
        """Newest first."""
        return await self.get(app_id), await self._store.apps.versions(app_id)

    async def layout(self, app_id: str) -> AppPublished:
        """The functions of an app as handles."""
        app = await self.get(app_id)
        rows = await self._store.functions.of_app(app_id)
        return AppPublished(app_id, self._handles(rows, app), "", app.version)

    def handle(self, row: FunctionRow, app: AppRow) -> FunctionHandle:
        """What a client gets to hold of a function."""
        return self._web.address(handle_of(row, app), row, app)

    def _handles(self, rows: list[FunctionRow], app: AppRow) -> list[FunctionHandle]:
        return [self.handle(row, app) for row in rows if not row.base_id]

    # -- inside
    async def _running(self, message: AppPublish) -> AppRow:
        app = self.running(message.app_id)
        if app.state in (AppState.STOPPING, AppState.DEPLOYED):
            raise Fault(Code.INVALID, f"app {app.app_id} is {app.state}: it cannot be published as a running one")
        return app

    async def _deployment(self, message: AppPublish, principal: Principal) -> AppRow:
        app = self.running(message.app_id) if message.app_id else None
        name = check_app_name(message.name or (app.name if app is not None else ""))
        environment = self._environments.resolve(message.environment, principal)
        there = await self._store.apps.deployed(
            app.environment_id if app is not None else environment.environment_id, name
        )
        if app is None:
            if there is not None and there.app_id in self._stops:
                raise Fault(Code.CONFLICT, f"app {name!r} is being stopped: deploy it again in a moment")
            return there or new_app(new_id("ap"), environment.environment_id, name, name, AppState.DEPLOYED)
        if there is not None and there.app_id != app.app_id:
            raise Fault(Code.CONFLICT, f"another app named {name!r} is deployed already: {there.app_id}")
        return app._replace(name=name)

    async def _stop(self, app_id: str, reason: str, force: bool) -> None:
        app = self.live[app_id]
        self.sessions.forget(app_id)
        await self._store.apps.set_state(app_id, AppState.STOPPING, reason=reason)
        self.live[app_id] = app._replace(state=AppState.STOPPING, stop_reason=reason)
        if self.schedules is not None:
            await self.schedules.stopped(app_id)
        self._web.forget(app_id)
        await self._calls.stop_app(app_id, force)
        await self._store.apps.set_state(app_id, AppState.STOPPED, stopped_at=time.time(), reason=reason)
        self.live.pop(app_id, None)
        self._logs.close(app_id)
        event = self._ended.pop(app_id, None)
        if event is not None:
            event.set()
        _log.info("app %s (%s) stopped%s", app_id, app.description, f": {reason}" if reason else "")

    def _session_over(self, app_id: str, reason: str) -> None:
        if app_id in self.live:
            task = asyncio.ensure_future(self.stop(app_id, reason))
            task.add_done_callback(_report)


def _report(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and done.exception() is not None:
        _log.error("an app could not be stopped: %s", done.exception())
