"""One request of an HTTP/2 connection, and its response; or a WebSocket, by an extended CONNECT (RFC 8441)."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from intermodal.server.gateway.client import Raw
from intermodal.server.gateway.exchange import Exchange
from intermodal.server.gateway.pages import page
from intermodal.server.gateway.request import Refusal, Request
from intermodal.server.gateway.response import BadResponse, StreamHead
from intermodal.server.gateway.settings import HEAD_LIMIT
from intermodal.server.gateway.websocket import WebSocket
from modal._protocol.messages.web import WINDOW

if TYPE_CHECKING:
    from intermodal.server.gateway.http2 import Http2Connection

HIGH_WATER = 256 << 10  # bytes of another protocol that wait for the client, above which who writes them is held up
LINGER_SECONDS = 5.0  # that the client has to read the last of them
_HANDSHAKE = (b"sec-websocket-accept", b"content-length")  # of HTTP/1.1's; others go with every response's
TEXT = b"content-type\0text/plain; charset=utf-8"
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


class Http2Stream:
    """The `Client` of one exchange. After an upgrade its `Line`: then the stream's data are the other protocol's."""

    def __init__(self, connection: Http2Connection, number: int) -> None:
        self.number = number
        self.request = Request()
        self.exchange: Exchange | None = None
        self.secure = connection.secure
        self.peer = connection.peer
        self.within = connection.within
        self.out: deque[memoryview] = deque()  # of the response's body: waits for the client's window
        self.ending = False  # `out` is the last of it
        self.parts: list[bytes] = []  # of the request's body: came just now
        self.parts_size = 0  # of the client's windows that they took
        self.ended = False  # they are the last of it
        self.received = False  # the client's side of the stream has ended
        self.websocket: WebSocket | None = None
        self.writable = True  # see client.Line
        self.since = time.monotonic()  # of the last that came of the request's body
        self._connection: Http2Connection | None = connection
        self._head: StreamHead | None = None
        self._left = -1  # bytes of the response's body that its Content-Length still promises
        self._held = 0  # bytes of the request's body for which the client gets no new window yet
        self._raw: Raw | None = None
        self._early: list[bytes] | None = None  # bytes for a protocol that has not begun yet
        self._reading = True  # of another protocol
        self._unsent = 0  # bytes of another protocol
        self._ending: asyncio.TimerHandle | None = None

    # -- the request
    def take_head(self, headers: list[tuple[bytes, bytes]], ended: bool) -> None:
        """Make a request of them. Raises Refusal."""
        request = self.request
        request.complete = self.received = ended
        protocol = b""
        flat: list[bytes] = []
        cookies: list[bytes] = []
        size = 0
        for name, value in headers:
            size += len(name) + len(value) + 4
            if name == b":method":
                request.method = value.decode("latin-1")
            elif name == b":path":
                request.target = value
            elif name == b":authority":
                flat[:0] = (b"host", value)
            elif name == b"host" and flat[:1] == [b"host"]:
                continue  # the same as the authority: the protocol has checked it
            elif name == b":protocol":
                protocol = value
            elif name == b"cookie":
                cookies.append(value)  # may come in crumbs, which HTTP/1 and its apps do not know
            elif name[:1] != b":":
                flat += (name, value)
        request.flat = flat
        if cookies:
            flat += (b"cookie", b"; ".join(cookies))
        if size > HEAD_LIMIT:
            raise Refusal(431, f"the request's head is larger than {HEAD_LIMIT >> 10} KiB")
        if not _METHOD.match(request.method.encode("latin-1")):
            raise Refusal(400, "the request's method is none")
        if protocol:
            self._take_protocol(protocol, ended)
        request.check("2")
        if ended and request.content_length > 0:
            raise Refusal(400, "the request has no body, but its Content-Length says that it has")
        request.chunked = not request.complete and request.content_length < 0

    def _take_protocol(self, protocol: bytes, ended: bool) -> None:
        """An extended CONNECT: to apps it is what it would be by HTTP/1.1. Raises Refusal."""
        request = self.request
        if protocol != b"websocket":
            raise Refusal(501, "the only protocol that can be had by CONNECT is websocket")
        if ended:
            raise Refusal(400, "a WebSocket's request must leave its stream open")
        request.method, request.upgrade, request.connection = "GET", protocol, b"upgrade"
        request.complete = True

    def take_body(self) -> None:
        """Give on `parts`. Raises Refusal."""
        connection, request, exchange = self._connection, self.request, self.exchange
        if connection is None:
            return
        parts, self.parts = self.parts, []
        size, self.parts_size = self.parts_size, 0
        self.since = time.monotonic()
        self.received = self.ended
        if self.is_raw:
            self._take_raw(parts, size)
            return
        if request.is_websocket:  # it was refused, or is still to be looked at: nobody wants this
            connection.acknowledge(self.number, size)
            return
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            request.received += len(data)
            if request.received > connection.body_limit:
                connection.acknowledge(self.number, size)
                raise Refusal(413, connection.too_large)
            full = False  # where its response is over nobody wants it
            if request.dispatched and exchange is not None:
                exchange.send_body(data, True)
                full = exchange.sent > WINDOW
            elif not request.dispatched:
                request.parts.append(data)
                full = request.received > WINDOW
            if full:
                self._held += size
            else:
                connection.acknowledge(self.number, size)
        if self.ended:
            request.complete = True
            if request.dispatched and exchange is not None:
                exchange.send_body(b"", False)

    @property
    def is_late(self) -> bool:
        """Whether the client owes the rest of its request."""
        return not self.request.complete and not self._held

    def give_up(self, refusal: Refusal) -> None:
        """The rest of the request will not be taken."""
        exchange, self.exchange = self.exchange, None
        self.request.dispatched = True
        if exchange is not None:
            exchange.client_gone(refusal.text)
        if self._head is None:
            self.turn_away(refusal)
        else:
            self._break_off()

    def leave(self) -> None:
        """The client has taken back its request, or is gone."""
        self._connection = None
        self.out.clear()
        exchange, self.exchange = self.exchange, None
        if self._raw is not None:
            self._end_raw()
        elif exchange is not None and not exchange.response_over:
            exchange.client_gone()

    # -- Client
    @property
    def is_open(self) -> bool:
        """See client.Client."""
        return self._connection is not None

    @property
    def is_raw(self) -> bool:
        """See client.Client."""
        return self._raw is not None or self._early is not None

    def expect_body(self, request: Request) -> None:
        """See client.Client."""
        if request.expect and not request.complete and not request.received and self._connection is not None:
            self._connection.send_head(self.number, [(b":status", b"100")], False)

    def turn_away(self, refusal: Refusal) -> None:
        """See client.Client."""
        flat = [part for pair in refusal.headers for part in pair]
        self._begin(
            refusal.status, b"\0".join([TEXT, *flat]), refusal.body or page(refusal.status, refusal.text), False
        )

    def release(self) -> None:
        """See client.Client."""
        self.exchange = None

    # -- Sink
    def start(self, exchange: Exchange, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        self.websocket = self._raw = self._early = None  # the app refuses it: an ordinary response
        self._begin(status, headers, body, more)

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if self._head is not None:
            self._write(body, more)

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """See exchange.Sink."""
        if self.websocket is not None and exchange.responded:
            self.websocket.fail()
            return
        self.websocket = self._raw = self._early = None
        if self._head is None:
            self.turn_away(Refusal(status, text, headers=((b"retry-after", b"1"),) if status == 503 else ()))
        else:
            self._break_off()

    def resume_request(self) -> None:
        """See exchange.Sink."""
        exchange = self.exchange
        if self.is_raw:
            if exchange is not None and exchange.sent <= WINDOW // 2:
                self.resume_reading()
        elif self._held and exchange is not None and exchange.sent <= WINDOW // 2 and self._connection is not None:
            self.since = time.monotonic()
            held, self._held = self._held, 0
            self._connection.acknowledge(self.number, held)

    # -- the response
    def _begin(self, status: int, headers: bytes, body: bytes, more: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        method = self.request.method
        try:
            head = StreamHead(status, headers, method=method, whole=-1 if more else len(body))
            if not more and 0 <= head.length != len(body) and not head.bodiless:
                raise BadResponse(f"it has {len(body)} bytes, but its Content-Length says {head.length}")
        except BadResponse as error:
            body, more = page(502, f"The app's response cannot be sent: {error}."), False
            head = StreamHead(502, TEXT, method=method, whole=len(body))
            exchange = self.exchange
            if exchange is not None and not exchange.response_over:
                exchange.response_over = True
                exchange.client_gone("the response could not be sent")
        self._head = head
        self._left = head.length
        over = not more and (head.bodiless or not body)
        if connection.send_head(self.number, head.fields, over):
            if over:
                self.over()
            else:
                self._write(body, more)

    def _write(self, body: bytes, more: bool) -> None:
        head, connection = self._head, self._connection
        if connection is None or head is None:
            return
        if head.bodiless:
            if self.exchange is not None and body:
                self.exchange.taken(len(body))
        elif body:
            if self._left >= 0:
                self._left -= len(body)
                if self._left < 0:
                    self._break_off()  # longer than its Content-Length
                    return
            self.out.append(memoryview(body))
        if not more:
            if self._left > 0 and not head.bodiless:
                self._break_off()  # shorter
                return
            self.ending = True
        connection.pump(self)

    def taken(self, size: int) -> None:
        """So much of the body is on its way."""
        if self._raw is not None:
            self._unsent -= size
            if not self.writable and self._unsent <= HIGH_WATER // 4:
                self.writable = True
                self._raw.resume_writing()
        elif self.exchange is not None:
            self.exchange.taken(size)

    def over(self) -> None:
        """The response's end was sent."""
        connection, self._connection, self.exchange = self._connection, None, None
        self.request.parts.clear()
        if connection is not None:
            connection.finished(self)
        self._end_raw()

    def _break_off(self) -> None:
        """The rest of a response will not come: the client sees a stream that ends with an error."""
        connection, self._connection = self._connection, None
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.response_over:
            exchange.response_over = True
            exchange.client_gone("the response could not be sent")
        if connection is not None:
            connection.reset(self, ErrorCodes.INTERNAL_ERROR)

    # -- another protocol: Line
    def be_websocket(self, exchange: Exchange) -> None:
        """See client.Client."""
        self.websocket = WebSocket(self, exchange)
        self._be_raw(self.websocket)

    def hold_raw(self, request: Request) -> None:
        """See client.Client."""
        self._early = []

    def _be_raw(self, raw: Raw) -> None:
        early, self._early = self._early, None
        self._raw = raw
        for part in early or ():
            raw.data_received(part)
        self.resume_reading()

    def switch(self, request: Request, fields: Sequence[tuple[bytes, bytes]], raw: Raw | None = None) -> None:
        """See client.Line."""
        connection = self._connection
        if connection is None:
            return
        flat = [part for name, value in fields if name.lower() not in _HANDSHAKE for part in (name, value)]
        try:
            head = StreamHead(200, b"\0".join(flat), method="CONNECT")
        except BadResponse:  # what no client could read is left out
            head = StreamHead(200, b"", method="CONNECT")
        self._head = head
        if connection.send_head(self.number, head.fields, False) and raw is not None:
            self._be_raw(raw)

    def write(self, data: bytes) -> None:
        """See client.Line."""
        connection = self._connection
        if connection is None or self.ending:
            return
        self.out.append(memoryview(data))
        self._unsent += len(data)
        connection.pump(self)
        if self._unsent > HIGH_WATER and self.writable and self._raw is not None:
            self.writable = False
            self._raw.pause_writing()

    def end(self, *, both: bool) -> None:
        """See client.Line. The stream's end follows what was written."""
        connection = self._connection
        if connection is not None and not self.ending:
            self.ending = True
            connection.pump(self)
            self.end_within(LINGER_SECONDS)

    def close(self) -> None:
        """See client.Line."""
        self.end(both=True)

    def end_within(self, seconds: float, *, eof: bool = False) -> None:
        """See client.Line."""
        if self._connection is None:
            return
        if seconds <= 0:
            self._cancel()
        elif self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(seconds, self._cancel)
        if eof:
            self.end(both=False)

    def _cancel(self) -> None:
        connection, self._connection, self.exchange = self._connection, None, None
        if connection is not None:
            connection.reset(self, ErrorCodes.CANCEL)
            self._end_raw()

    def stop_reading(self) -> None:
        """See client.Line."""
        self._reading = False

    def resume_reading(self) -> None:
        """See client.Line."""
        self._reading = True
        held, self._held = self._held, 0
        if held and self._connection is not None:
            self._connection.acknowledge(self.number, held)

    def _take_raw(self, parts: list[bytes], size: int) -> None:
        """Bytes of another protocol, which the client's window bounds as long as nobody takes them."""
        connection = self._connection
        data = b"".join(parts)
        if self._raw is None:
            assert self._early is not None
            self._early.append(data)
            self._held += size
        else:
            if data:
                self._raw.data_received(data)
            if self._reading and connection is not None:
                connection.acknowledge(self.number, size)
            else:
                self._held += size
        if self.received and self._raw is not None:
            self._raw.eof_received()
            self.close()
        elif self.received and connection is not None:
            self.leave()
            connection.reset(self, ErrorCodes.CANCEL)

    def _end_raw(self) -> None:
        """Nothing comes any more."""
        if self._ending is not None:
            self._ending.cancel()
        raw, self._raw = self._raw, None
        self._early = None
        if raw is not None:
            raw.connection_lost()
