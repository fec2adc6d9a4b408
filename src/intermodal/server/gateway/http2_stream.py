"""One request of an HTTP/2 connection, and its response."""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from intermodal.server.gateway.exchange import Exchange
from intermodal.server.gateway.pages import page
from intermodal.server.gateway.request import Refusal, Request
from intermodal.server.gateway.response import BadResponse, StreamHead
from intermodal.server.gateway.settings import HEAD_LIMIT
from modal._protocol.messages.web import WINDOW

if TYPE_CHECKING:
    from intermodal.server.gateway.http2 import Http2Connection

TEXT = b"content-type\0text/plain; charset=utf-8"
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


class Http2Stream:
    """The `Client` of one exchange."""

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
        self.since = time.monotonic()  # of the last that came of the request's body
        self._connection: Http2Connection | None = connection
        self._head: StreamHead | None = None
        self._left = -1  # bytes of the response's body that its Content-Length still promises
        self._held = 0  # bytes of the request's body for which the client gets no new window yet

    # -- the request
    def take_head(self, headers: list[tuple[bytes, bytes]], ended: bool) -> None:
        """Make a request of them. Raises Refusal."""
        request = self.request
        request.complete = ended
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
        request.check("2")
        if ended and request.content_length > 0:
            raise Refusal(400, "the request has no body, but its Content-Length says that it has")
        request.chunked = not ended and request.content_length < 0

    def take_body(self) -> None:
        """Give on `parts`. Raises Refusal."""
        connection, request, exchange = self._connection, self.request, self.exchange
        if connection is None:
            return
        parts, self.parts = self.parts, []
        size, self.parts_size = self.parts_size, 0
        self.since = time.monotonic()
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
        if exchange is not None and not exchange.response_over:
            exchange.client_gone()

    # -- Client
    @property
    def is_open(self) -> bool:
        """See client.Client."""
        return self._connection is not None

    @property
    def is_raw(self) -> bool:
        """See client.Client: WebSockets do not come by HTTP/2."""
        return False

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
        self._begin(status, headers, body, more)

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if self._head is not None:
            self._write(body, more)

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """See exchange.Sink."""
        if self._head is None:
            self.turn_away(Refusal(status, text, headers=((b"retry-after", b"1"),) if status == 503 else ()))
        else:
            self._break_off()

    def resume_request(self) -> None:
        """See exchange.Sink."""
        exchange = self.exchange
        if self._held and exchange is not None and exchange.sent <= WINDOW // 2 and self._connection is not None:
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
        if self.exchange is not None:
            self.exchange.taken(size)

    def over(self) -> None:
        """The response's end was sent."""
        connection, self._connection, self.exchange = self._connection, None, None
        self.request.parts.clear()
        if connection is not None:
            connection.finished(self)

    def _break_off(self) -> None:
        """The rest of a response will not come: the client sees a stream that ends with an error."""
        connection, self._connection = self._connection, None
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.response_over:
            exchange.response_over = True
            exchange.client_gone("the response could not be sent")
        if connection is not None:
            connection.reset(self, ErrorCodes.INTERNAL_ERROR)
