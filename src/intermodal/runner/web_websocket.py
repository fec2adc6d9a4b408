"""One WebSocket as an ASGI app sees it. Framing is the gateway's: whole messages come and go here."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Optional

from intermodal.runner.web_exchange import WebExchange
from intermodal.runner.web_http import base_scope, describe, flatten
from modal._protocol.messages.web import (
    WebAccept,
    WebClose,
    WebData,
    WebDone,
    WebFailed,
    WebMessage,
    WebRequest,
    WebResponse,
)

if TYPE_CHECKING:
    from intermodal.runner.web import WebLink

ABNORMAL = 1006  # the connection ended without a close frame
_CONNECTING, _OPEN, _DENYING, _CLOSED = range(4)


class WebSocketExchange(WebExchange):
    """One connection, one input, for as long as it is open."""

    def __init__(self, link: WebLink, token: int, request: WebRequest, state: dict[str, Any]) -> None:
        super().__init__(link, token, base_scope(request, "websocket", state))
        self.scope["scheme"] = "wss" if request.scheme == "https" else "ws"
        self.scope["extensions"] = {"websocket.http.response": {}}
        offered = b",".join(value for name, value in self.scope["headers"] if name == b"sec-websocket-protocol")
        self.scope["subprotocols"] = [part.strip() for part in offered.decode("latin-1").split(",") if part.strip()]
        self._events: deque[tuple[dict[str, Any], int]] = deque(
            [({"type": "websocket.connect"}, 0)]
        )  # with their bytes
        self._phase = _CONNECTING
        self._disconnected: Optional[dict[str, Any]] = None
        self._denial: Optional[WebResponse] = None

    # -- the app's side
    async def receive(self) -> dict[str, Any]:
        while not self._events:
            if self._disconnected is not None:
                return self._disconnected
            await self._wait_arrival()
        event, size = self._events.popleft()
        self._consume(size)
        return event

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._disconnected is not None:
            if kind == "websocket.close":
                return  # many an app closes what its client has closed
            raise OSError("the client has gone away")
        if kind == "websocket.send" and self._phase == _OPEN:
            await self._send_message(message)
        elif kind == "websocket.accept" and self._phase == _CONNECTING:
            self._phase = _OPEN
            self._link.send(
                self._token, WebAccept(message.get("subprotocol") or "", flatten(message.get("headers") or ()))
            )
        elif kind == "websocket.close" and self._phase in (_CONNECTING, _OPEN):
            if self._phase == _CONNECTING:
                self._link.send(self._token, WebResponse(403, b""))
            else:
                self._link.send(self._token, WebClose(message.get("code") or 1000, message.get("reason") or ""))
            self._phase = _CLOSED
        elif kind == "websocket.http.response.start" and self._phase == _CONNECTING:
            self._phase = _DENYING
            self._denial = WebResponse(message["status"], flatten(message.get("headers") or ()))
        elif kind == "websocket.http.response.body" and self._phase == _DENYING:
            self._deny(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"the app sent {kind!r} where it has no place in a WebSocket's life")

    async def _send_message(self, message: dict[str, Any]) -> None:
        text = message.get("text")
        data = text.encode() if text is not None else message.get("bytes")
        if data is None:
            raise RuntimeError("websocket.send needs 'text' or 'bytes'")
        await self._wait_room()
        self._credit -= len(data)
        self._link.send(self._token, WebMessage(bytes(data), text is not None))

    def _deny(self, body: bytes, more: bool) -> None:
        denial, self._denial = self._denial, None
        if denial is not None:
            denial.body, denial.more = bytes(body), more
            self._link.send(self._token, denial)
        else:
            self._link.send(self._token, WebData(bytes(body), more))
        if not more:
            self._phase = _CLOSED

    # -- how the app ended
    def finish(self) -> None:
        """The app has returned."""
        if self._link.exchanges.pop(self._token, None) is None:
            return
        if self._phase == _OPEN and self._disconnected is None:
            self._link.send(self._token, WebClose(1000, ""))
        elif self._phase in (_CONNECTING, _DENYING) and self._disconnected is None:
            self._link.send(self._token, WebFailed("the app returned without accepting the WebSocket"))
            return
        self._link.send(self._token, WebDone())

    def fail(self, error: BaseException) -> None:
        """The app has raised."""
        if self._disconnected is not None and isinstance(error, OSError):
            self.cancelled()
            return
        text, trace = describe(error)
        if self._link.exchanges.pop(self._token, None) is not None:
            self._link.send(self._token, WebFailed(text, trace))

    def cancelled(self) -> None:
        """The app was cancelled, or gave up because its client had gone."""
        if self._link.exchanges.pop(self._token, None) is not None:
            self._link.send(self._token, WebDone())

    # -- the gateway's side
    def message(self, message: WebMessage) -> None:
        """A whole message of the client; text was checked by the gateway."""
        event: dict[str, Any] = {"type": "websocket.receive", "text": None, "bytes": None}
        if message.text:
            event["text"] = message.data.decode()
        else:
            event["bytes"] = message.data
        self._events.append((event, len(message.data)))
        self._wake()

    def closed(self, message: WebClose) -> None:
        """The client has closed, or the connection is lost."""
        self._disconnected = {"type": "websocket.disconnect", "code": message.code, "reason": message.reason}
        self._wake()
        self.grant(0)

    @property
    def is_gone(self) -> bool:
        """See WebExchange."""
        return self._disconnected is not None

    def leave(self, reason: str) -> None:
        """See WebExchange."""
        if self._disconnected is None:
            self.closed(WebClose(ABNORMAL, reason))
