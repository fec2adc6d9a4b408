"""WSGI apps (PEP 3333) behind the ASGI messages of the gateway: each request in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import io
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterable, Optional

PART = 1 << 16  # bytes of a response that are sent together


class WsgiAdapter:
    """An ASGI app that runs a WSGI app. Request bodies are read, and responses sent, while they come."""

    def __init__(self, app: Callable[..., Iterable[bytes]], threads: int) -> None:
        self._app = app
        self._threads = ThreadPoolExecutor(threads, "wsgi")

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        loop = asyncio.get_running_loop()
        first = await receive()
        call = _Call(self._app, scope, first, receive, send, loop)
        context = contextvars.copy_context()
        try:
            rest = await loop.run_in_executor(self._threads, context.run, call.run)
        except asyncio.CancelledError:
            call.abandoned = True
            raise
        for message in rest:
            await send(message)


class _Call:
    """One request, in its thread."""

    def __init__(
        self, app: Any, scope: dict[str, Any], first: dict[str, Any], receive: Any, send: Any, loop: Any
    ) -> None:
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._loop = loop
        self._input = _Input(first, self._ask)
        self._start: Optional[dict[str, Any]] = None
        self._sent_start = False
        self.abandoned = False

    def _ask(self) -> dict[str, Any]:
        message: dict[str, Any] = self._wait(self._receive())
        return message

    def _wait(self, coroutine: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def run(self) -> list[dict[str, Any]]:
        """Returns the messages that are left to be sent: for a short response, all of them."""
        environ = make_environ(self._scope, self._input)
        parts = self._app(environ, self._start_response)
        try:
            return self._take(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _take(self, parts: Iterable[bytes]) -> list[dict[str, Any]]:
        sized = isinstance(parts, (list, tuple))
        if sized and sum(map(len, parts)) <= PART:
            return [*self._begin(), self._body(b"".join(parts), False)]
        for part in parts:
            if self.abandoned:
                raise OSError("the client has gone away")
            if part:
                self._push(bytes(part))
        return [*self._begin(), self._body(b"", False)]

    def _push(self, part: bytes) -> None:
        for message in self._begin():
            self._wait(self._send(message))
        self._wait(self._send(self._body(part, True)))

    def _begin(self) -> list[dict[str, Any]]:
        if self._start is None:
            raise RuntimeError("the WSGI app returned without calling start_response")
        if self._sent_start:
            return []
        self._sent_start = True
        return [self._start]

    def _body(self, body: bytes, more: bool) -> dict[str, Any]:
        return {"type": "http.response.body", "body": body, "more_body": more}

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._sent_start:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self._start is not None:
            raise AssertionError("start_response was called twice")
        self._start = {
            "type": "http.response.start",
            "status": int(status.split(" ", 1)[0]),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        }
        return self._push


class _Input(io.RawIOBase):
    """`wsgi.input`: the request's body, read while it arrives. `_Call` wraps it for buffering."""

    def __init__(self, first: dict[str, Any], ask: Callable[[], dict[str, Any]]) -> None:
        self._ask = ask
        self._rest = memoryview(first.get("body", b""))
        self._more = bool(first.get("more_body"))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._more:
            message = self._ask()
            if message["type"] != "http.request":
                raise OSError("the client went away before its request was complete")
            self._rest = memoryview(message.get("body", b""))
            self._more = bool(message.get("more_body"))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def make_environ(scope: dict[str, Any], body: io.RawIOBase) -> dict[str, Any]:
    """The WSGI environment of a request."""
    root = scope["root_path"]
    path = scope["path"]
    if root and path.startswith(root):
        path = path[len(root) :]
    server, port = scope["server"]
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root.encode().decode("latin-1"),
        "PATH_INFO": path.encode("utf-8", "surrogatepass").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "RAW_URI": scope["raw_path"].decode("latin-1"),
        "SERVER_NAME": server,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BufferedReader(body, PART),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if scope["client"] is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = scope["client"][0], str(scope["client"][1])
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name == b"content-type":
            key = "CONTENT_TYPE"
        elif name == b"content-length":
            key = "CONTENT_LENGTH"
        elif b"_" in name:
            continue  # it could pose as the same name with dashes
        else:
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    return environ
