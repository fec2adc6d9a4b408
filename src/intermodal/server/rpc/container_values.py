"""Large values of calls that containers make: their worker moves them, so that nothing is copied."""

from __future__ import annotations

import asyncio
import time

from intermodal.server.dispatch import Dispatch
from intermodal.server.principal import Role, principal_of
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import ValuesMove
from modal._protocol.messages.wire import Done
from modal._protocol.messages.worker import ContainerValues

AWAY_SECONDS = 10.0  # how long a request waits for a container's worker that is away
LOOK_SECONDS = 0.05  # between looks whether it is back


class ContainerValueHandlers:
    """`dispatch` knows which worker has a container."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def register(self, handlers: Handlers) -> None:
        handlers.unary(ValuesMove)(self.move)

    async def move(self, connection: Connection, message: ValuesMove) -> Done:
        """Ask the container's worker. Faults: invalid (no container asks), not-found."""
        principal = principal_of(connection)
        if principal.role != Role.CONTAINER:
            raise Fault(Code.INVALID, "ValuesMove is for containers: others write and read the values themselves")
        worker = await self._worker_of(principal.container_id)
        return await worker.request(ContainerValues(principal.container_id, message.written, message.wanted), Done)

    async def _worker_of(self, container_id: str) -> Connection:
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            container = self._dispatch.containers.get(container_id)
            if container is not None and container.link is not None:
                connection: Connection = container.link.worker.connection
                return connection
            if container is None or time.monotonic() > deadline:
                raise Fault(Code.NOT_FOUND, f"container {container_id} does not run, or its worker is away")
            await asyncio.sleep(LOOK_SECONDS)
