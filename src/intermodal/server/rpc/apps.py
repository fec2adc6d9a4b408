"""Apps on the wire."""

from __future__ import annotations

import asyncio

from intermodal.server.ports import CallsPort, WorkersPort
from intermodal.server.principal import Role, principal_of
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.logs import Logs
from intermodal.server.store.apps import AppRow
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import (
    AppAttach,
    AppCreate,
    AppCreated,
    AppDetach,
    AppEnded,
    AppHistory,
    AppHistoryGet,
    AppInfo,
    AppLayoutGet,
    AppList,
    AppLookup,
    AppPublish,
    AppPublished,
    AppRollback,
    AppStop,
    AppVersion,
)
from modal._protocol.messages.app import (
    Apps as AppsKnown,
)
from modal._protocol.messages.call import CallStats
from modal._protocol.messages.wire import Done

STATS_INTERVAL = 0.25  # seconds between looks at the numbers of an app that a client holds


class AppHandlers:
    def __init__(
        self, apps: Apps, environments: Environments, logs: Logs, calls: CallsPort, workers: WorkersPort
    ) -> None:
        self._apps = apps
        self._environments = environments
        self._logs = logs
        self._calls = calls
        self._workers = workers

    def register(self, handlers: Handlers) -> None:
        handlers.unary(AppCreate)(self.create)
        handlers.unary(AppPublish)(self.publish)
        handlers.unary(AppRollback)(self.rollback)
        handlers.unary(AppStop)(self.stop)
        handlers.unary(AppDetach)(self.detach)
        handlers.unary(AppLookup)(self.lookup)
        handlers.unary(AppList)(self.list)
        handlers.unary(AppHistoryGet)(self.history)
        handlers.unary(AppLayoutGet)(self.layout)
        handlers.stream(AppAttach)(self.attach)

    async def create(self, connection: Connection, message: AppCreate) -> AppCreated:
        app = await self._apps.create(message, principal_of(connection))
        return AppCreated(app.app_id)

    async def publish(self, connection: Connection, message: AppPublish) -> AppPublished:
        return await self._apps.publish(message, principal_of(connection))

    async def rollback(self, connection: Connection, message: AppRollback) -> AppPublished:
        return await self._apps.rollback(message.app_id, message.version, principal_of(connection))

    async def stop(self, connection: Connection, message: AppStop) -> Done:
        await self._apps.stop(message.app_id, force=message.force)
        return Done()

    async def detach(self, connection: Connection, message: AppDetach) -> Done:
        await self._apps.detach(message.app_id)
        return Done()

    async def lookup(self, connection: Connection, message: AppLookup) -> AppInfo:
        app = await self._apps.lookup(message.name, message.environment, message.create, principal_of(connection))
        return self.info(app)

    async def list(self, connection: Connection, message: AppList) -> AppsKnown:
        apps = await self._apps.listed(message.environment, principal_of(connection))
        return AppsKnown([self.info(app) for app in apps])

    async def history(self, connection: Connection, message: AppHistoryGet) -> AppHistory:
        app, versions = await self._apps.history(message.app_id)
        return AppHistory(
            [
                AppVersion(
                    row.version,
                    row.deployed_at,
                    row.deployed_by,
                    row.software,
                    row.tag,
                    row.commit,
                    row.rolled_back_from,
                )
                for row in versions
            ],
            app.name or app.description,
        )

    async def layout(self, connection: Connection, message: AppLayoutGet) -> AppPublished:
        principal = principal_of(connection)
        if principal.role == Role.CONTAINER and principal.app_id != message.app_id:
            raise Fault(Code.AUTH, "a container may see the layout of its own app only")
        return await self._apps.layout(message.app_id)

    async def attach(self, connection: Connection, message: AppAttach, stream: Stream) -> None:
        """LogBatch and CallStats items, then AppEnded, then END."""
        app = await self._apps.get(message.app_id)
        live = app.app_id in self._apps.live
        if message.hold:
            if not live:
                raise Fault(Code.NOT_FOUND, f"app {app.app_id} was stopped{_because(app.stop_reason)}")
            self._apps.sessions.hold(app.app_id)
        stats = asyncio.create_task(self._send_stats(app, stream)) if message.hold else None
        try:
            if message.logs:
                async for batch in self._logs.follow(
                    app.app_id, message.from_seq, live=live and message.follow, container_id=message.container_id
                ):
                    await stream.send(batch)
            if message.follow or not live:
                reason = await self._apps.ended(app.app_id)
                await stream.send(AppEnded(app.app_id, reason))
        finally:
            if stats is not None:
                stats.cancel()
            if message.hold:
                self._apps.sessions.release(app.app_id)

    async def _send_stats(self, app: AppRow, stream: Stream) -> None:
        """What the spinner line shows, whenever it has changed."""
        sent: tuple[dict[str, list[int]], str] = ({}, "")
        while True:
            now = {name: list(numbers) for name, numbers in self._calls.stats(app.app_id).items()}
            notice = "; ".join(self._calls.notices(app.app_id))
            if (now, notice) != sent:
                sent = now, notice
                await stream.send(CallStats(app.app_id, now, notice))
            await asyncio.sleep(STATS_INTERVAL)

    def info(self, app: AppRow) -> AppInfo:
        """As users see it."""
        return AppInfo(
            app.app_id,
            app.name,
            app.description,
            app.state,
            self._environments.name_of(app.environment_id),
            app.created_at,
            app.stopped_at,
            len(self._workers.containers(app.app_id)) if app.live else 0,
            app.version,
            "",
            self._calls.notices(app.app_id) if app.live else [],
        )


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
