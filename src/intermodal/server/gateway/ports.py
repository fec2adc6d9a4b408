"""Servers that users' code runs (`@modal.web_server`): requests go to their ports, responses come back, as HTTP/1.1.

The worker makes the TCP connections, within the container's network, and hands them over: bytes pass no relay
but this process. An upgrade (WebSocket) turns a pair of connections into a pipe.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import TYPE_CHECKING, Any, cast

import httptools

from intermodal.server.gateway.container_ports import ContainerPorts
from intermodal.server.gateway.exchange import Exchange
from intermodal.server.gateway.request import Request
from intermodal.server.gateway.websocket import accept_key
from modal._protocol.errors import Fault, WireError
from modal._protocol.messages.web import WINDOW

if TYPE_CHECKING:
    from intermodal.server.dispatch import Container
    from intermodal.server.gateway.client import Line

IDLE_KEPT = 64  # idle connections of a container
HEAD_LIMIT = 64 << 10  # bytes of a response's head
HIGH_WATER = 256 << 10
_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te", b"expect",
        b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"content-length",
        b"modal-secret",
    )
)  # fmt: skip


class Ports:
    """The connections to the ports of all containers."""

    def __init__(self, reach: ContainerPorts) -> None:
        self._reach = reach
        self._idle: dict[str, list[PortConnection]] = {}  # container id -> connections that wait for a request
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Exchange, container: Container) -> None:
        """Send a request to its container."""
        idle = self._idle.get(container.id)
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                connection.begin(exchange)
                return
        task = asyncio.get_running_loop().create_task(self._connect(exchange, container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange, container: Container) -> None:
        port = exchange.route.web.port
        try:
            sock = await self._reach.connect(container.id, port)
            loop = asyncio.get_running_loop()
            _transport, connection = await loop.create_connection(lambda: PortConnection(self, container.id), sock=sock)
        except (Fault, WireError, OSError, TimeoutError) as error:
            exchange.refuse(502, f"Port {port} of the container does not accept connections: {error}")
            exchange.finish_input(None)
            return
        if exchange.sink is None or exchange.response_over:
            connection.rest()
            exchange.finish_input(None)
            return
        connection.begin(exchange)

    def keep(self, connection: PortConnection) -> None:
        """It waits for its next request."""
        idle = self._idle.setdefault(connection.container_id, [])
        if len(idle) < IDLE_KEPT:
            idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: PortConnection) -> None:
        """It has ended."""
        idle = self._idle.get(connection.container_id)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.container_id]

    def close(self) -> None:
        """End all."""
        for task in self._tasks:
            task.cancel()
        for connections in list(self._idle.values()):
            for connection in list(connections):
                connection.close()


class PortConnection(asyncio.Protocol):
    """The `Carrier` of one exchange after the other."""

    def __init__(self, ports: Ports, container_id: str) -> None:
        self.container_id = container_id
        self._ports = ports
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._exchange: Exchange | None = None
        self._status = 0
        self._flat: list[bytes] = []
        self._parts: list[bytes] = []
        self._head_bytes = 0
        self._head_over = False
        self._started = False  # the response was given on
        self._complete = False
        self._delimited = True  # the response's end is known without the connection's
        self._unread = 0  # bytes of the response that the client has not taken
        self._writable = True
        self._untaken = 0  # bytes of the request that wait to be written
        self._request_over = False
        self._chunked = False
        self._pipe: Pipe | None = None

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self._pipe is not None:
            self._pipe.from_port(data)
            return
        exchange = self._exchange
        if exchange is None:
            self.close()  # a server that speaks unasked
            return
        if not self._head_over:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(exchange, data[upgrade.args[0] :])
            return
        except (httptools.HttpParserError, httptools.HttpParserCallbackError) as error:
            self._fail(f"The server in the container answered with what is no HTTP: {error}")
            return
        if not self._head_over and self._head_bytes > HEAD_LIMIT:
            self._fail(f"The server in the container answered with a head larger than {HEAD_LIMIT >> 10} KiB.")
            return
        self._give_on(exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ports.drop(self)
        if self._pipe is not None:
            self._pipe.port_lost()
            self._over()
            return
        exchange = self._exchange
        if exchange is None:
            return
        if self._head_over and not self._delimited and exc is None:
            self._complete = True  # the end of the connection is the end of the body
            self._give_on(exchange)
        else:
            self._fail("The server in the container closed the connection before its response was complete.")

    def pause_writing(self) -> None:
        self._writable = False
        if self._pipe is not None:
            self._pipe.port_full()

    def resume_writing(self) -> None:
        self._writable = True
        if self._pipe is not None:
            self._pipe.port_free()
        elif self._exchange is not None and self._untaken:
            untaken, self._untaken = self._untaken, 0
            self._exchange.request_taken(untaken)

    # -- one exchange
    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, exchange: Exchange) -> None:
        """Send the request."""
        assert self._transport is not None
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._status, self._flat, self._parts = 0, [], []
        self._head_bytes, self._unread, self._untaken = 0, 0, 0
        self._head_over = self._started = self._complete = self._request_over = False
        self._delimited = True
        request = exchange.request
        self._chunked = request.chunked
        exchange.carrier = self
        body = request.take_body() if not wants_upgrade(request) else b""
        exchange.sent = len(body)
        self._transport.write(request_head(request))
        self.send_body(exchange, body, not request.complete)

    def send_body(self, exchange: Exchange, data: bytes, more: bool) -> None:
        """See exchange.Carrier."""
        transport = self._transport
        if transport is None or self._exchange is not exchange:
            return
        if data:
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            if self._writable:
                exchange.request_taken(len(data))
            else:
                self._untaken += len(data)
        if not more:
            self._request_over = True
            if self._chunked:
                transport.write(b"0\r\n\r\n")

    def grant(self, exchange: Exchange, size: int) -> None:
        """See exchange.Carrier."""
        self._unread -= size
        if self._transport is not None and self._unread <= WINDOW // 2:
            self._transport.resume_reading()

    def gone(self, exchange: Exchange, reason: str, cancel: bool) -> None:
        """See exchange.Carrier."""
        if self._exchange is exchange:
            self._over()
            self.close()

    def _give_on(self, exchange: Exchange) -> None:
        if not self._head_over:
            return
        parts, self._parts = self._parts, []
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._unread += len(body)
        more = not self._complete
        reusable = self._complete and self._delimited and self._request_over and self._parser.should_keep_alive()
        if self._complete:
            self._exchange = None  # before the client's next request can come
        if not self._started:
            self._started = True
            exchange.respond(self._status, b"\0".join(self._flat), body, more)
        elif body or not more:
            exchange.respond_data(body, more)
        if not more:
            exchange.finish_input(None)
            if reusable and exchange.request.method != "HEAD":
                self.rest()
            else:
                self.close()
        elif self._unread > WINDOW and self._transport is not None:
            self._transport.pause_reading()

    def _fail(self, text: str) -> None:
        exchange = self._exchange
        self._exchange = None
        if exchange is not None:
            exchange.refuse(502, text)
            exchange.finish_input(None)
        self.close()

    def _over(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.finish_input(None)

    def rest(self) -> None:
        """Wait for the next request."""
        if self.is_usable:
            assert self._transport is not None
            self._transport.resume_reading()
            self._ports.keep(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- the parser's calls
    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_over:
            self._flat.append(name)
            self._flat.append(value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._flat = []
            return
        self._status = status
        self._head_over = True
        names = {name.lower(): value for name, value in zip(self._flat[::2], self._flat[1::2], strict=True)}
        bodiless = status in (101, 204, 304) or (self._exchange is not None and self._exchange.request.method == "HEAD")
        self._delimited = bodiless or b"content-length" in names or b"transfer-encoding" in names
        if bodiless and status != 101:
            self._complete = True

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._head_over:
            self._complete = True

    # -- another protocol
    def _switch(self, exchange: Exchange, rest: bytes) -> None:
        sink, request = exchange.sink, exchange.request
        if self._status != 101 or sink is None or not wants_upgrade(request):
            self._fail("The server in the container switched protocols unasked.")
            return
        pairs = list(zip(self._flat[::2], self._flat[1::2], strict=True))
        if request.version == "2" and not _is_accepted(request, pairs):
            self._fail("The server in the container did not accept the WebSocket properly.")
            return
        assert self._transport is not None
        exchange.responded = True
        client = cast("Line", sink)  # a result that is fetched later has asked for no upgrade
        self._pipe = Pipe(client, self._transport)
        client.switch(request, pairs, self._pipe)
        if rest:
            client.write(rest)


class Pipe:
    """`Raw` of a client's line: bytes to a port and back."""

    def __init__(self, client: Line, port: asyncio.Transport) -> None:
        self._client = client
        self._port = port

    def from_port(self, data: bytes) -> None:
        self._client.write(data)

    def port_lost(self) -> None:
        self._client.close()

    def port_full(self) -> None:
        self._client.stop_reading()

    def port_free(self) -> None:
        self._client.resume_reading()

    def data_received(self, data: bytes) -> None:
        """See client.Raw."""
        self._port.write(data)

    def eof_received(self) -> None:
        """See client.Raw."""

    def connection_lost(self) -> None:
        """See client.Raw."""
        self._port.close()

    def pause_writing(self) -> None:
        """See client.Raw."""
        self._port.pause_reading()

    def resume_writing(self) -> None:
        """See client.Raw."""
        self._port.resume_reading()


def wants_upgrade(request: Request) -> bool:
    """Whether the client asks for another protocol."""
    return bool(request.upgrade) and b"upgrade" in [part.strip() for part in request.connection.split(b",")]


def _is_accepted(request: Request, fields: list[tuple[bytes, bytes]]) -> bool:
    """Whether the answer to the key that was made for it is one."""
    return accept_key(request.websocket_key) in [
        value for name, value in fields if name.lower() == b"sec-websocket-accept"
    ]


def request_head(request: Request) -> bytes:
    """The head that the server in the container gets."""
    target = request.path
    root = request.root_path.encode("latin-1")
    if root and target.startswith(root):
        target = target[len(root) :] or b"/"
    if request.query:
        target += b"?" + request.query
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    dropped = _HOP | {part.strip() for part in request.connection.split(b",")}
    hosted = False
    for name, value in request.headers():
        if name == b"host":
            if hosted:
                continue
            hosted, value = True, request.host
        elif name in dropped:
            continue
        lines.append(name + b": " + value)
    lines.append(b"x-forwarded-for: " + request.client.encode("latin-1", "replace"))
    lines.append(b"x-forwarded-proto: " + request.scheme.encode())
    lines.append(b"x-forwarded-host: " + request.host)
    if root:
        lines.append(b"x-forwarded-prefix: " + root)
    if wants_upgrade(request):
        lines.append(b"connection: Upgrade\r\nupgrade: " + request.upgrade)
        if request.version == "2":  # where it has none; see `_is_accepted`
            request.websocket_key = base64.b64encode(os.urandom(16))
            lines.append(b"sec-websocket-key: " + request.websocket_key)
    if request.chunked:
        lines.append(b"transfer-encoding: chunked")
    elif request.content_length >= 0:
        lines.append(b"content-length: %d" % request.content_length)
    return b"\r\n".join(lines) + b"\r\n\r\n"
