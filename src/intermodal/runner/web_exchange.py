"""What HTTP requests and WebSockets have in common for an ASGI app: flow control, waking, and how it is ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Optional

from modal._protocol.messages.web import GRANT, WINDOW, WebClose, WebCredit, WebData, WebMessage

if TYPE_CHECKING:
    from intermodal.runner.web import WebLink

GONE_SECONDS = 2.0  # that an app has to end by itself when its client has left


class WebExchange:
    """One input. The link calls `data`, `message`, `closed`, `grant` and `gone`."""

    __slots__ = ("_arrived", "_consumed", "_credit", "_link", "_loop", "_room", "_token", "scope", "task")

    def __init__(self, link: WebLink, token: int, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.task: Optional[asyncio.Task[None]] = None  # the app's
        self._link = link
        self._loop = link.loop
        self._token = token
        self._arrived: Optional[asyncio.Future[None]] = None  # the app waits for something to come
        self._consumed = 0  # bytes that the app has taken and the gateway does not know of
        self._credit = WINDOW
        self._room: Optional[asyncio.Future[None]] = None  # the app waits for credit

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        raise NotImplementedError

    def data(self, _message: WebData) -> None:
        """A part of a request's body."""

    def message(self, _message: WebMessage) -> None:
        """A message of a WebSocket."""

    def closed(self, _message: WebClose) -> None:
        """The end of a WebSocket."""

    def grant(self, size: int) -> None:
        """The gateway takes so much more."""
        self._credit += size
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def gone(self, reason: str, cancel: bool) -> None:
        """The client has left: the app is told, and cancelled if it does not end."""
        self.leave(reason)
        if self.task is None:
            return
        if cancel:
            self.task.cancel()
        else:
            self._loop.call_later(GONE_SECONDS, self.task.cancel)

    def leave(self, _reason: str) -> None:
        """Tell the app."""
        raise NotImplementedError

    # -- for subclasses
    async def _wait_arrival(self) -> None:
        """Until something has come."""
        self._arrived = self._loop.create_future()
        await self._arrived

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.done():
            arrived.set_result(None)

    def _consume(self, size: int) -> None:
        """The app has taken so much."""
        self._consumed += size
        if self._consumed >= GRANT:
            self._link.send(self._token, WebCredit(self._consumed))
            self._consumed = 0

    async def _wait_room(self) -> None:
        """Until more may be sent. Raises OSError when the client has left."""
        while self._credit <= 0:
            if self.is_gone:
                raise OSError("the client has gone away")
            self._room = self._loop.create_future()
            await self._room
