"""One HTTP request as an ASGI app sees it."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import unquote_to_bytes

from intermodal.runner.web_exchange import WebExchange
from modal._protocol.messages.web import (
    PART,
    WebData,
    WebDone,
    WebFailed,
    WebRequest,
    WebResponse,
    split_headers,
)

if TYPE_CHECKING:
    from intermodal.runner.web import WebLink

ASGI = {"version": "3.0", "spec_version": "2.4"}
_NOT_STARTED, _STARTED, _BODY, _COMPLETE = range(4)


def base_scope(request: WebRequest, kind: str, state: dict[str, Any]) -> dict[str, Any]:
    """What HTTP and WebSocket scopes have in common."""
    target = request.target
    path = unquote_to_bytes(target) if b"%" in target else target
    return {
        "type": kind,
        "asgi": ASGI,
        "http_version": request.http_version,
        "scheme": request.scheme,
        "path": path.decode("utf-8", "replace"),
        "raw_path": target,
        "query_string": request.query,
        "root_path": request.root_path,
        "headers": split_headers(request.headers),
        "client": (request.client_host, request.client_port) if request.client_host else None,
        "server": (request.server_host, request.server_port),
        "state": state.copy(),
        "extensions": {},
    }


def flatten(headers: Any) -> bytes:
    """An app's header list for the wire."""
    flat: list[bytes] = []
    for name, value in headers:
        flat.append(name)
        flat.append(value)
    return b"\0".join(flat)


class HttpExchange(WebExchange):
    """`receive` and `send` are the app's; the rest is the link's."""

    __slots__ = (
        "_asked", "_body", "_complete_body", "_disconnected", "_flush_due", "_headers", "_phase", "_queue", "_started",
        "_status",
    )  # fmt: skip

    def __init__(self, link: WebLink, token: int, request: WebRequest, state: dict[str, Any]) -> None:
        super().__init__(link, token, base_scope(request, "http", state))
        self.scope["method"] = request.method
        self._queue: deque[bytes] = deque()
        if request.body:
            self._queue.append(request.body)
        self._complete_body = not request.more  # all of the request has arrived
        self._asked = False  # the end of the request's body was given to the app
        self._disconnected = False
        self._phase = _NOT_STARTED
        self._status = 0
        self._headers = b""
        self._body: Optional[bytes] = None  # a whole response that waits to be sent
        self._flush_due = False
        self._started = time.perf_counter()

    # -- the app's side
    async def receive(self) -> dict[str, Any]:
        while True:
            if self._disconnected:
                return {"type": "http.disconnect"}
            if not self._asked and (self._queue or self._complete_body):
                body = self._queue.popleft() if self._queue else b""
                more = bool(self._queue) or not self._complete_body
                self._asked = not more
                if body and not self._complete_body:
                    self._consume(len(body))
                return {"type": "http.request", "body": body, "more_body": more}
            if self._phase == _COMPLETE:
                return {"type": "http.disconnect"}
            await self._wait_arrival()

    async def send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._disconnected:
            raise OSError("the client has gone away")
        if kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.start":
            if self._phase != _NOT_STARTED:
                raise RuntimeError("the app sent http.response.start twice")
            self._phase = _STARTED
            self._status = message["status"]
            self._headers = flatten(message.get("headers", ()))
        else:
            raise RuntimeError(f"the app sent {kind!r}, which has no place in an HTTP response")

    async def _send_body(self, body: Any, more: bool) -> None:
        if self._phase == _STARTED:
            if not more and len(body) <= PART:
                self._phase = _COMPLETE
                self._body = bytes(body)
                self._credit -= len(body)
                if not self._flush_due:
                    self._flush_due = True
                    self._loop.call_soon(self._flush)
                self._wake()
                return
            self._phase = _BODY
            self._link.send(self._token, WebResponse(self._status, self._headers, b"", True))
        elif self._phase != _BODY:
            missing = self._phase == _NOT_STARTED
            raise RuntimeError(
                "the app sent a body before http.response.start" if missing else "the app sent more after its last body"
            )
        view = memoryview(body)
        for at in range(0, len(view), PART):
            await self._wait_room()
            part = bytes(view[at : at + PART])
            self._credit -= len(part)
            last = not more and at + PART >= len(view)
            self._link.send(self._token, WebData(part, not last))
        if not more:
            if not view:
                self._link.send(self._token, WebData(b"", False))
            self._phase = _COMPLETE
            self._wake()

    def _flush(self, done: bool = False) -> bool:
        """Send a whole response that waits; whether there was one."""
        body, self._body = self._body, None
        if body is None:
            return False
        self._link.send(self._token, WebResponse(self._status, self._headers, body, False, done))
        return True

    # -- how the app ended
    def finish(self) -> None:
        """The app has returned."""
        if self._phase != _COMPLETE and not self._disconnected:
            what = "without a response" if self._phase == _NOT_STARTED else "in the middle of its response"
            self.fail(RuntimeError(f"the app returned {what}"))
            return
        if self._link.exchanges.pop(self._token, None) is None:
            return
        if not self._flush(True):
            self._link.send(self._token, WebDone(time.perf_counter() - self._started))

    def fail(self, error: BaseException) -> None:
        """The app has raised."""
        if self._disconnected and isinstance(error, OSError):
            self.cancelled()
            return
        text, trace = describe(error)
        if self._link.exchanges.pop(self._token, None) is None:
            return
        if self._phase == _COMPLETE:
            self._flush(False)
            self._link.send(self._token, WebDone(time.perf_counter() - self._started))
        else:
            self._link.send(self._token, WebFailed(text, trace))

    def cancelled(self) -> None:
        """The app was cancelled, or gave up because its client had gone."""
        if self._link.exchanges.pop(self._token, None) is not None:
            self._flush(False)
            self._link.send(self._token, WebDone(time.perf_counter() - self._started))

    # -- the gateway's side
    def data(self, message: WebData) -> None:
        if message.body:
            self._queue.append(message.body)
        if not message.more:
            self._complete_body = True
        self._wake()

    @property
    def is_gone(self) -> bool:
        """See WebExchange."""
        return self._disconnected

    def leave(self, _reason: str) -> None:
        """See WebExchange."""
        self._disconnected = True
        self._wake()
        self.grant(0)


def describe(error: BaseException) -> tuple[str, str]:
    """An app's exception: one line, and its traceback, which also goes to the container's log."""
    import sys
    import traceback

    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    print(trace, file=sys.stderr, end="")  # noqa: T201 - into the app's log
    return f"{type(error).__name__}: {error}", trace
