"""Dicts and queues on the wire; their entries and items go straight to `Dicts` and `Queues`."""

from __future__ import annotations

import asyncio

from intermodal.server.principal import principal_of
from intermodal.server.queues.queues import Queues
from intermodal.server.services.dicts import Dicts
from intermodal.server.services.environments import Environments
from intermodal.server.services.objects import Objects, kind_of
from intermodal.server.store.objects import ObjectRow
from modal._protocol.aio import Connection, Handlers
from modal._protocol.messages.object import (
    ObjectClear,
    ObjectCount,
    ObjectDelete,
    ObjectHeartbeat,
    ObjectInfo,
    ObjectLen,
    ObjectList,
    ObjectOpen,
    ObjectsKnown,
    Received,
)
from modal._protocol.messages.secret import ObjectId
from modal._protocol.messages.wire import Done


class ObjectHandlers:
    def __init__(self, objects: Objects, dicts: Dicts, queues: Queues, environments: Environments) -> None:
        self._objects = objects
        self._dicts = dicts
        self._queues = queues
        self._environments = environments

    def register(self, handlers: Handlers) -> None:
        self._dicts.register(handlers)
        self._queues.register(handlers)
        handlers.unary(ObjectOpen)(self.open)
        handlers.unary(ObjectList)(self.list)
        handlers.unary(ObjectDelete)(self.delete)
        handlers.unary(ObjectHeartbeat)(self.heartbeat)
        handlers.unary(ObjectClear)(self.clear)
        handlers.unary(ObjectLen)(self.length)
        handlers.note(Received)(self.received)

    async def open(self, connection: Connection, message: ObjectOpen) -> ObjectId:
        principal = principal_of(connection)
        environment = self._environments.resolve(message.environment, principal)
        row = await self._objects.open(message.kind, environment, message.name, message.create, principal)
        return ObjectId(row.object_id, row.name)

    async def list(self, connection: Connection, message: ObjectList) -> ObjectsKnown:
        environment = self._environments.resolve(message.environment, principal_of(connection))
        rows = await self._objects.all(message.kind, environment)
        return ObjectsKnown(list(await asyncio.gather(*map(self._info, rows))))

    async def delete(self, connection: Connection, message: ObjectDelete) -> Done:
        if message.object_id:
            await self._objects.delete(message.kind, message.object_id)
        else:
            environment = self._environments.resolve(message.environment, principal_of(connection))
            await self._objects.delete_named(message.kind, environment, message.name)
        return Done()

    async def heartbeat(self, connection: Connection, message: ObjectHeartbeat) -> Done:
        await self._objects.keep(message.object_id)
        return Done()

    async def clear(self, connection: Connection, message: ObjectClear) -> Done:
        if kind_of(message.object_id) == "dict":
            await self._dicts.clear(message.object_id)
        else:
            await self._queues.clear(message.object_id, message.partition, message.all)
        return Done()

    async def length(self, connection: Connection, message: ObjectLen) -> ObjectCount:
        if kind_of(message.object_id) == "dict":
            return ObjectCount(await self._dicts.length(message.object_id))
        return ObjectCount(await self._queues.length(message.object_id, message.partition, message.total))

    def received(self, connection: Connection, message: Received) -> None:
        if message.kind == "queue":
            self._queues.received(connection, message)
        else:
            self._dicts.received(message.tokens)

    async def _info(self, row: ObjectRow) -> ObjectInfo:
        if row.kind == "dict":
            return ObjectInfo(row.object_id, row.name, row.created_at, await self._dicts.length(row.object_id))
        lengths = await self._queues.lengths(row.object_id)
        return ObjectInfo(row.object_id, row.name, row.created_at, sum(count for _key, count in lengths), len(lengths))
