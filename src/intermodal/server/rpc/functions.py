"""Functions on the wire."""

from __future__ import annotations

from intermodal.server.principal import principal_of
from intermodal.server.services.functions import Functions
from modal._protocol.aio import Connection, Handlers
from modal._protocol.messages.function import (
    FunctionBind,
    FunctionHandle,
    FunctionLookup,
    FunctionStats,
    FunctionStatsGet,
    FunctionUpdateAutoscaler,
)
from modal._protocol.messages.wire import Done


class FunctionHandlers:
    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def register(self, handlers: Handlers) -> None:
        handlers.unary(FunctionLookup)(self.lookup)
        handlers.unary(FunctionBind)(self.bind)
        handlers.unary(FunctionUpdateAutoscaler)(self.update_autoscaler)
        handlers.unary(FunctionStatsGet)(self.stats)

    async def lookup(self, connection: Connection, message: FunctionLookup) -> FunctionHandle:
        return await self._functions.lookup(message, principal_of(connection))

    async def bind(self, connection: Connection, message: FunctionBind) -> FunctionHandle:
        return await self._functions.bind(message)

    async def update_autoscaler(self, connection: Connection, message: FunctionUpdateAutoscaler) -> Done:
        await self._functions.update_autoscaler(message)
        return Done()

    async def stats(self, connection: Connection, message: FunctionStatsGet) -> FunctionStats:
        return self._functions.stats(message.function_id)
