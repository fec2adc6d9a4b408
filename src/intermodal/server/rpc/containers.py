"""Containers and the server itself on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from intermodal.server.ports import WorkersPort
from intermodal.server.principal import principal_of
from intermodal.server.rpc.apps import AppHandlers
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.status import Status
from intermodal.server.store.fleet import FleetStore
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppInfo
from modal._protocol.messages.container import (
    ContainerList,
    ContainerLocate,
    Containers,
    ContainerStop,
    ContainerTimings,
    ContainerTimingsGet,
)
from modal._protocol.messages.secret import ServerStatus, ServerStatusGet, ServerStop
from modal._protocol.messages.wire import Done


class ContainerHandlers:
    def __init__(
        self,
        workers: WorkersPort,
        fleet: FleetStore,
        apps: Apps,
        environments: Environments,
        app_handlers: AppHandlers,
        status: Status,
        stop_server: Callable[[bool], Awaitable[None]],
        wait_worker: Callable[[float], Awaitable[None]],
    ) -> None:
        self._workers = workers
        self._fleet = fleet
        self._apps = apps
        self._environments = environments
        self._app_handlers = app_handlers
        self._status = status
        self._stop_server = stop_server
        self._wait_worker = wait_worker

    def register(self, handlers: Handlers) -> None:
        handlers.unary(ContainerList)(self.list)
        handlers.unary(ContainerStop)(self.stop)
        handlers.unary(ContainerLocate)(self.locate)
        handlers.unary(ContainerTimingsGet)(self.timings)
        handlers.unary(ServerStatusGet)(self.status)
        handlers.unary(ServerStop)(self.stop_server)

    async def list(self, connection: Connection, message: ContainerList) -> Containers:
        environment = self._environments.resolve(message.environment, principal_of(connection))
        found = []
        for container in self._workers.containers(message.app_id):
            app = self._apps.live.get(container.app_id)
            if app is not None and app.environment_id == environment.environment_id:
                container.app_name = app.name or app.description
                found.append(container)
        return Containers(found)

    async def stop(self, connection: Connection, message: ContainerStop) -> Done:
        await self._workers.stop_container(message.container_id)
        return Done()

    async def locate(self, connection: Connection, message: ContainerLocate) -> AppInfo:
        running = self._workers.container(message.container_id)
        if running is not None:
            app_id = running[0]
        else:
            row = await self._fleet.container(message.container_id)
            if row is None:
                raise Fault(Code.NOT_FOUND, f"there is no container {message.container_id}")
            app_id = row.app_id
        return self._app_handlers.info(await self._apps.get(app_id))

    async def timings(self, connection: Connection, message: ContainerTimingsGet) -> ContainerTimings:
        marks = self._workers.timings(message.container_id)
        if marks is None:
            raise Fault(Code.NOT_FOUND, f"the start of container {message.container_id} is not remembered")
        return ContainerTimings(marks)

    async def status(self, connection: Connection, message: ServerStatusGet) -> ServerStatus:
        if message.wait_worker > 0:
            await self._wait_worker(message.wait_worker)
        return ServerStatus(await self._status.get(message.disk))

    async def stop_server(self, connection: Connection, message: ServerStop) -> Done:
        await self._stop_server(message.keep_containers)
        return Done()
