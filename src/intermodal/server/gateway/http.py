"""A client's connection: HTTP/1.1 requests in, responses out, in order, with back-pressure both ways."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import httptools

from intermodal.server.gateway.client import Raw
from intermodal.server.gateway.exchange import Exchange
from intermodal.server.gateway.pages import page
from intermodal.server.gateway.request import Refusal, Request
from intermodal.server.gateway.response import LAST_CHUNK, BadResponse, Head, chunk
from intermodal.server.gateway.settings import HEAD_LIMIT
from intermodal.server.gateway.websocket import WebSocket, accept_key
from modal._protocol import tcp
from modal._protocol.messages.web import WINDOW

if TYPE_CHECKING:
    from intermodal.server.gateway.gateway import Gateway

HIGH_WATER = 256 << 10  # bytes that wait for a client to read, above which its response is held up
KEPT_BACK = 256 << 10  # bytes of requests that wait behind one that is at work
TEXT = b"content-type\0text/plain; charset=utf-8"
JOIN_LIMIT = 1 << 16  # bytes: a larger part of a body is not copied together with its head
LINGER_SECONDS = 2.0  # that a client may go on to send what nobody will read
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpConnection(asyncio.Protocol):
    """The `Client` of its exchanges, one after the other."""

    def __init__(self, gateway: Gateway, http2: Callable[[], asyncio.Protocol], within: bool = False) -> None:
        """`http2` makes what serves a connection that begins with HTTP/2's preface. `within`: see client.Client."""
        self.within = within
        self._gateway = gateway
        self._http2 = http2
        self._preface: bytes | None = b""  # what may become HTTP/2's; None: it is HTTP/1
        self._parser: Any = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self._request: Request | None = None  # being received
        self._queue: deque[Request] = deque()  # received behind the one that is at work
        self.exchange: Exchange | None = None  # whose response this connection sends
        self._answering: Request | None = None  # the request that is at work
        self._head: Head | None = None
        self._left = -1  # bytes of the response's body that its Content-Length still promises
        self._raw: Raw | None = None
        self.websocket: WebSocket | None = None
        self._early: list[bytes] | None = None  # bytes for a protocol that has not begun yet
        self._ending: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._reading = True
        self.writable = True
        self._unread = 0  # bytes of the response that are not known to be taken
        self._closing = False
        self._broken: Refusal | None = None
        self.secure = False
        self.peer: tuple[str, int] = ("", 0)
        self.local: tuple[str, int] = ("", 0)
        self.since = time.monotonic()  # of the state that a time limit holds for

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tcp.tune_descriptor(sock.fileno())
        self.peer = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.local = (transport.get_extra_info("sockname") or ("", 0))[:2]
        self.secure = transport.get_extra_info("ssl_object") is not None
        self._gateway.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._raw is not None:
            self._raw.data_received(data)
            return
        if self._closing or self._broken is not None:
            return
        if self._early is not None:
            self._early.append(data)
            if sum(map(len, self._early)) > KEPT_BACK:
                self.stop_reading()
            return
        if self._preface is not None:
            data = self._preface + data
            if PREFACE.startswith(data[: len(PREFACE)]):
                self._begin_http2(data)
                return
            self._preface, self._in_head = None, False
        self._feed(data)
        self._pump()

    def _begin_http2(self, data: bytes) -> None:
        transport = self.transport
        if len(data) < len(PREFACE):
            if not self._preface:
                self.since, self._in_head = time.monotonic(), True  # the time for a head is the preface's too
            self._preface = data
        elif transport is not None:
            self._gateway.connections.discard(self)
            self._closing, self.transport = True, None
            protocol = self._http2()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(data)

    def _feed(self, data: bytes) -> None:
        if self._in_head or self._request is None:
            self._head_bytes += len(data)
            if self._request is None and not self._in_head:
                self.since = time.monotonic()
                self._in_head = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._broken = cause if isinstance(cause, Refusal) else Refusal(400, str(error), close=True)
        except httptools.HttpParserInvalidMethodError:
            self._broken = Refusal(501, "the request's method is unknown", close=True)
        except httptools.HttpParserError as error:
            self._broken = Refusal(400, f"this is no proper HTTP request: {error}", close=True)
        if self._broken is None and self._in_head and self._head_bytes > HEAD_LIMIT:
            self._broken = Refusal(431, f"the request's head is larger than {HEAD_LIMIT >> 10} KiB", close=True)

    def eof_received(self) -> bool:
        if self._raw is not None:
            self._raw.eof_received()
        return False  # a client that sends no more is not waited for

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.connections.discard(self)
        self._closing = True
        self.transport = None
        raw, self._raw = self._raw, None
        if self._ending is not None:
            self._ending.cancel()
        if raw is not None:
            raw.connection_lost()
        exchange, self.exchange = self.exchange, None
        if exchange is not None and exchange.sink is self and raw is None:
            exchange.client_gone()
        self._queue.clear()
        self._request = self._answering = None

    def pause_writing(self) -> None:
        self.writable = False
        if self._raw is not None:
            self._raw.pause_writing()

    def resume_writing(self) -> None:
        self.writable = True
        if self._raw is not None:
            self._raw.resume_writing()
        elif self.exchange is not None:
            unread, self._unread = self._unread, 0
            self.exchange.taken(unread)

    # -- the parser's calls
    def on_message_begin(self) -> None:
        self._request = Request()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is None or not self._in_head:
            return  # a trailer
        request.flat.append(name.lower())
        request.flat.append(value)

    def on_headers_complete(self) -> None:
        request = self._request
        assert request is not None
        self._in_head = False
        if self._head_bytes > HEAD_LIMIT and sum(map(len, request.flat)) + len(request.target) > HEAD_LIMIT:
            raise Refusal(431, f"the request's head is larger than {HEAD_LIMIT >> 10} KiB", close=True)
        self._head_bytes = 0
        self.since = time.monotonic()
        request.method = self._parser.get_method().decode()
        request.keep_alive = self._parser.should_keep_alive()
        request.check(self._parser.get_http_version())
        self._queue.append(request)

    def on_body(self, body: bytes) -> None:
        request = self._request
        assert request is not None
        request.received += len(body)
        self.since = time.monotonic()
        if request.received > self._gateway.settings.body_limit:
            raise Refusal(413, self._gateway.too_large(), close=True)
        if request.dispatched and self.exchange is not None and request is self._answering:
            self.exchange.send_body(body, True)
            if self.exchange.sent > WINDOW:
                self.stop_reading()
        elif not request.dispatched:
            request.parts.append(body)
            if request is self._answering and request.received > WINDOW:
                self.stop_reading()

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        assert request is not None
        request.complete = True
        self.since = time.monotonic()
        if request.dispatched and self.exchange is not None and request is self._answering:
            self.exchange.send_body(b"", False)
        if self._closing:
            return
        if self._head_over_and_request_late(request):
            self._next()

    def _head_over_and_request_late(self, request: Request) -> bool:
        """Whether the response was over before this request was."""
        return request is self._answering and request.dispatched and self.exchange is None

    # -- one request after the other
    def _pump(self) -> None:
        """Begin with the next request, if there is one and the last is answered."""
        if self._broken is not None and self._answering is not None and not self._answering.complete:
            self._give_up(self._broken)
            return
        while self._answering is None and self._queue and not self._closing and self._raw is None:
            request = self._queue.popleft()
            self._answering = request
            request.dispatched = True
            if self._broken is not None and not request.complete:
                self._refuse(self._broken)  # what follows its head is none of its body
                return
            try:
                self._gateway.admit(self, request)
            except Refusal as refusal:
                self._refuse(refusal)
        if self._broken is not None and self._answering is None and not self._closing:
            broken, self._answering = self._broken, Request()
            self._refuse(broken)
        elif (self._queue and sum(request.received for request in self._queue) + self._head_bytes > KEPT_BACK) or len(
            self._queue
        ) > 100:
            self.stop_reading()

    def _give_up(self, refusal: Refusal) -> None:
        """The rest of the request at work will not come."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone(refusal.text)
        if self._head is None:
            self._refuse(refusal)
        else:
            self._break_off(refusal.text)

    def expect_body(self, request: Request) -> None:
        """See client.Client."""
        if request.expect and not request.complete and not request.received and self.transport is not None:
            self.transport.write(CONTINUE)

    def _next(self) -> None:
        """The request at work is answered and received: go on."""
        self._answering = None
        self.exchange = None
        self._head = None
        self._unread = 0
        self.since = time.monotonic()
        if not self._queue or len(self._queue) < 50:
            self.resume_reading()
        if self._queue or self._broken is not None:
            asyncio.get_running_loop().call_soon(self._pump)

    def _refuse(self, refusal: Refusal) -> None:
        """The gateway's own answer to a request that reaches no container."""
        flat = [part for pair in refusal.headers for part in pair]
        headers = b"\0".join([TEXT, *flat])
        self._start(refusal.status, headers, refusal.body or page(refusal.status, refusal.text), False, refusal.close)

    def _upgraded(self, rest: bytes) -> None:
        """The parser has stopped after a request that wants another protocol."""
        request = self._queue[-1] if self._queue else self._answering
        if request is None:
            self._broken = Refusal(400, "an upgrade without a request", close=True)
            return
        request.complete = True
        self._request = None
        if rest:
            request.parts.append(rest)  # what the client sent behind it, for the other protocol
        request.keep_alive = False

    def be_websocket(self, exchange: Exchange) -> None:
        """The request at work asks for a WebSocket: what follows it on the connection belongs to that."""
        self.websocket = WebSocket(self, exchange)
        if self._early is None:
            self.hold_raw(exchange.request)
        self.be_raw(self.websocket)

    @property
    def is_open(self) -> bool:
        """See client.Client."""
        return self.transport is not None

    @property
    def is_raw(self) -> bool:
        """See client.Client."""
        return self._raw is not None or self._early is not None

    def be_raw(self, raw: Raw) -> None:
        """From now on bytes belong to `raw`, also those that came early."""
        early, self._early = self._early, None
        self._raw = raw
        self.resume_reading()
        if self.transport is not None:
            for part in early or ():
                if part:
                    raw.data_received(part)

    # -- client.Line
    def switch(self, request: Request, fields: Sequence[tuple[bytes, bytes]], raw: Raw | None = None) -> None:
        """See client.Line. Without `raw` it is a WebSocket of ours."""
        lines = [b"HTTP/1.1 101 Switching Protocols"]
        if raw is None:
            lines += [b"Upgrade: websocket", b"Connection: Upgrade"]
            lines.append(b"Sec-WebSocket-Accept: " + accept_key(request.websocket_key))
        lines += [name + b": " + value for name, value in fields]
        self.write(b"\r\n".join(lines) + b"\r\n\r\n")
        if raw is not None:
            self.be_raw(raw)

    def write(self, data: bytes) -> None:
        """See client.Line."""
        if self.transport is not None:
            self.transport.write(data)

    def end(self, *, both: bool) -> None:
        """See client.Line."""
        transport = self.transport
        if transport is None:
            return
        if transport.can_write_eof() or not both:
            self.end_within(5.0, eof=True)
        else:
            transport.close()  # both have said good-bye: with TLS, the client waits for this end

    def close(self) -> None:
        """See client.Line."""
        if self.transport is not None:
            self.transport.close()

    def hold_raw(self, request: Request) -> None:
        """The request asks for another protocol: keep what follows it until that has begun."""
        self._early = [request.take_body()]

    def be_frames(self, protocol: asyncio.Protocol) -> None:
        """A proxy in front asks for frames on a connection that it has used for HTTP before."""
        request, transport = self._answering, self.transport
        assert request is not None
        assert transport is not None
        self._gateway.connections.discard(self)
        self._closing, self.transport = True, None
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        head = b"GET %s HTTP/1.1\r\nUpgrade: %s\r\n\r\n" % (request.path, request.upgrade)
        protocol.data_received(head + request.take_body())

    def end_within(self, seconds: float, *, eof: bool = False) -> None:
        """End the connection: at once with 0, else when the other side does, or that time has passed."""
        transport = self.transport
        if transport is None:
            return
        if seconds <= 0:
            transport.abort()
            return
        if eof and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def turn_away(self, refusal: Refusal) -> None:
        """See client.Client."""
        self._refuse(refusal)

    # -- Sink
    def start(self, exchange: Exchange, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if self.websocket is not None:
            self.websocket, self._raw = None, None  # the app refuses it: an ordinary response
        self._start(status, headers, body, more)

    def _start(self, status: int, headers: bytes, body: bytes, more: bool, close: bool = False) -> None:
        request = self._answering
        if request is None or self.transport is None:
            return
        try:
            head = Head(
                status, headers, method=request.method, version=request.version,
                keep_alive=request.keep_alive and not close, whole=-1 if more else len(body),
            )  # fmt: skip
            if not more and 0 <= head.length != len(body) and not head.bodiless:
                raise BadResponse(f"it has {len(body)} bytes, but its Content-Length says {head.length}")
        except BadResponse as error:
            head, more = self._bad_response(request, error)
            body = page(502, f"The app's response cannot be sent: {error}.")
        self._head = head
        self._left = head.length
        if not more and not head.chunked:
            self.transport.write(head.data if head.bodiless else head.data + body)
            self._response_over()
            return
        self.transport.write(head.data)
        self._write_body(body, more)

    def _bad_response(self, request: Request, error: BadResponse) -> tuple[Head, bool]:
        body = page(502, f"The app's response cannot be sent: {error}.")
        exchange = self.exchange
        if exchange is not None and not exchange.response_over:
            exchange.response_over = True
            exchange.client_gone("the response could not be sent")
        return Head(502, TEXT, method=request.method, version=request.version, keep_alive=False, whole=len(body)), False

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if self.transport is not None and self._head is not None:
            self._write_body(body, more)

    def _write_body(self, body: bytes, more: bool) -> None:
        head, transport = self._head, self.transport
        assert head is not None
        assert transport is not None
        size = len(body)
        if size and not head.bodiless:
            if self._left >= 0:
                self._left -= size
                if self._left < 0:
                    self._break_off("the response is longer than its Content-Length")
                    return
                transport.write(body)
            elif not head.chunked:
                transport.write(body)
            elif size > JOIN_LIMIT:
                transport.write(b"%x\r\n" % size)
                transport.write(body)
                transport.write(b"\r\n")
            else:
                transport.write(chunk(body))
        if size and self.exchange is not None:
            if self.writable:
                self.exchange.taken(size)
            else:
                self._unread += size
        if not more:
            if head.chunked:
                transport.write(LAST_CHUNK)
            elif self._left > 0 and not head.bodiless:
                self._break_off("the response is shorter than its Content-Length")
                return
            self._response_over()

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """See exchange.Sink."""
        if self.websocket is not None and exchange.responded:
            self.websocket.fail()
            return
        self.websocket, self._raw = None, None
        if self._head is None:
            self._refuse(Refusal(status, text, headers=((b"retry-after", b"1"),) if status == 503 else ()))
        else:
            self._break_off(text)

    def _break_off(self, _reason: str) -> None:
        """The rest of a response will not come: the client sees a connection that ends too early."""
        self._closing = True
        if self.transport is not None:
            self.transport.abort()

    def resume_request(self) -> None:
        """See exchange.Sink."""
        if self.exchange is not None and self.exchange.sent <= WINDOW // 2:
            self.resume_reading()

    def _response_over(self) -> None:
        request, head = self._answering, self._head
        assert head is not None
        assert self.transport is not None
        if head.close:
            self._closing = True
            if request is not None and request.complete and self._broken is None:
                self.transport.close()
            else:  # a connection that is closed with bytes unread is reset, and the answer lost with it
                self.resume_reading()
                self.end_within(LINGER_SECONDS, eof=True)
            return
        if request is not None and request.complete:
            self._next()
        else:
            self.exchange = None  # the rest of the request is read and dropped, within its limits
            self.resume_reading()

    def release(self) -> None:
        """See client.Client."""
        self.exchange = None

    # -- reading
    def stop_reading(self) -> None:
        if self._reading and self.transport is not None:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def shut(self) -> None:
        """See client.Connection."""
        if self.transport is not None:
            self.transport.abort()

    def look(self, now: float) -> None:
        """See client.Connection."""
        if self.is_raw or self.transport is None:
            return
        limits, age = self._gateway.settings, now - self.since
        if self._in_head:
            if age > limits.head_timeout and self._answering is None:
                self._answering = Request()
                self._refuse(Refusal(408, "the request's head did not arrive in time", close=True))
        elif self._answering is None:
            if age > limits.idle_timeout:
                self.transport.close()
        elif not self._answering.complete and self._reading and age > limits.body_timeout:
            self._give_up(Refusal(408, "the request's body did not arrive in time", close=True))
