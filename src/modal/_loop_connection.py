"""The client's connection in the async face: one for each event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AsyncIterator, Optional

from modal._endpoint import Endpoint

if TYPE_CHECKING:
    from modal._protocol import aio


class LoopConnection:
    """The connection of one event loop. Closes itself when the loop shuts its generators down, as asyncio.run does."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.connection: Optional[aio.Connection] = None
        self._endpoint = endpoint
        self._connecting: Any = None  # one attempt for all who wait
        self._keeper: Any = None

    async def connect(self) -> aio.Connection:
        import asyncio

        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._dial())
        attempt = self._connecting
        try:
            connection: aio.Connection = await asyncio.shield(attempt)
        finally:
            if attempt.done() and self._connecting is attempt:
                self._connecting = None
        return connection

    async def _dial(self) -> aio.Connection:
        connection = self.connection = await self._endpoint.dial_aio()
        if self._keeper is None:
            self._keeper = self._keep()
            await self._keeper.__anext__()
        return connection

    async def _keep(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            if self.connection is not None:
                self.connection.close()

    def close(self) -> None:
        """May be called from any thread."""
        connection = self.connection
        if connection is not None and not connection.loop.is_closed():
            connection.loop.call_soon_threadsafe(connection.close)
