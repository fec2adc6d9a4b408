"""A client's WebSocket (RFC 6455, over HTTP/2 RFC 8441): whole messages to the container and back, one input each."""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
from typing import TYPE_CHECKING

from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLOSED, OPEN
from websockets.server import ServerProtocol

from intermodal.server.gateway.request import Refusal, Request
from modal._protocol.messages.web import MESSAGE_LIMIT, WINDOW, WebAccept, WebClose, WebGone, WebMessage

if TYPE_CHECKING:
    from intermodal.server.gateway.client import Line
    from intermodal.server.gateway.exchange import Exchange
    from intermodal.server.gateway.links import RunnerLink

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OURS = (b"sec-websocket-accept", b"connection", b"upgrade", b"content-length", b"transfer-encoding")
_quiet = logging.getLogger("intermodal.gateway.websocket")
_quiet.setLevel(logging.WARNING)  # the library tells every frame below that


def check_handshake(request: Request) -> None:
    """Raises Refusal for a request that asks for a WebSocket in the wrong way."""
    if request.method != "GET" or request.version == "1.0":
        raise Refusal(400, "a WebSocket begins with GET over HTTP/1.1", close=True)
    versions = [value.strip() for name, value in request.headers() if name == b"sec-websocket-version"]
    if versions != [b"13"]:
        raise Refusal(
            426, "only version 13 of the WebSocket protocol is spoken", close=True,
            headers=((b"sec-websocket-version", b"13"),),
        )  # fmt: skip
    if request.version == "2":
        return  # has no key: nobody takes its handshake for something else
    try:
        key = base64.b64decode(request.websocket_key, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise Refusal(400, "the Sec-WebSocket-Key is none", close=True)


def accept_key(key: bytes) -> bytes:
    """What proves that a Sec-WebSocket-Key was understood."""
    return base64.b64encode(hashlib.sha1(key + _MAGIC).digest())  # noqa: S324 - what the protocol asks for


class _Wire(ServerProtocol):
    """The library's, but for a close in the middle of a fragmented message, which RFC 6455 (5.4) lets pass."""

    def recv_frame(self, frame: Frame) -> None:
        """A frame has come."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)


class WebSocket:
    """`Raw` of its client's connection; `accept`, `send` and `close` are the container's side."""

    def __init__(self, line: Line, exchange: Exchange) -> None:
        self._line = line
        self._exchange = exchange
        self._protocol = _Wire(state=OPEN, max_size=MESSAGE_LIMIT, logger=_quiet)
        self._early: list[bytes] = []  # bytes of a client that does not wait for the answer
        self._accepted = False
        self._message: list[bytes] = []  # of a fragmented message
        self._message_size = 0
        self._message_text = False
        self._told = False  # the container knows that it is over
        self._unread = 0
        self._paused = False

    # -- the container's side
    def accept(self, message: WebAccept) -> None:
        """The app takes it: switch protocols."""
        line = self._line
        if self._accepted or not line.is_open:
            return
        self._accepted = True
        self._exchange.responded = True
        fields = []
        subprotocol = message.subprotocol.encode("latin-1", "replace")
        if subprotocol and _is_line(subprotocol):
            fields.append((b"Sec-WebSocket-Protocol", subprotocol))
        parts = message.headers.split(b"\0") if message.headers else []
        for name, value in zip(parts[::2], parts[1::2], strict=False):
            if name.lower() not in _OURS and _is_line(name) and _is_line(value):
                fields.append((name, value))
        line.switch(self._exchange.request, fields)
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def send(self, message: WebMessage) -> None:
        """A message of the app."""
        if self._protocol.state is not OPEN:
            return
        if message.text:
            self._protocol.send_text(message.data)
        else:
            self._protocol.send_binary(message.data)
        self._write()
        if self._line.writable:
            self._exchange.taken(len(message.data))
        else:
            self._unread += len(message.data)

    def close(self, message: WebClose) -> None:
        """The app closes."""
        self._told = True
        if self._protocol.state is OPEN:
            code = message.code if 1000 <= message.code < 5000 and message.code not in (1005, 1006, 1015) else 1011
            self._protocol.send_close(code, message.reason.encode()[:120].decode("utf-8", "ignore"))
            self._write()
            self._line.end_within(5.0)

    def fail(self) -> None:
        """The container's side broke."""
        self._told = True
        if self._protocol.state is OPEN:
            self._protocol.send_close(CloseCode.INTERNAL_ERROR, "the app failed")
            self._write()
        self._line.end_within(1.0)

    # -- Raw: the client's side
    def data_received(self, data: bytes) -> None:
        if not self._accepted:
            self._early.append(data)
            if sum(map(len, self._early)) > MESSAGE_LIMIT:
                self._line.end_within(0.0)
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._write()
        if self._protocol.state is CLOSED or self._protocol.close_expected():
            self._over()

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._message, self._message_size = [], 0
            self._message_text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            if frame.opcode is Opcode.CLOSE:
                self._tell()
            return  # pings are answered by the protocol
        self._message.append(bytes(frame.data))
        self._message_size += len(frame.data)
        if self._message_size > MESSAGE_LIMIT:
            self._protocol.fail(CloseCode.MESSAGE_TOO_BIG, "a message may have 2 MiB")
            return
        if not frame.fin:
            return
        data, self._message = b"".join(self._message), []
        if self._message_text:
            try:
                data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(CloseCode.INVALID_DATA, "a text message must be UTF-8")
                return
        link = self._link
        if link is not None and not self._told:
            self._exchange.sent += len(data)
            link.send(self._exchange.token, WebMessage(data, self._message_text))
            if self._exchange.sent > WINDOW:
                self._line.stop_reading()

    def eof_received(self) -> None:
        self._protocol.receive_eof()

    def connection_lost(self) -> None:
        self._over()

    def pause_writing(self) -> None:
        """See `send`."""

    def resume_writing(self) -> None:
        unread, self._unread = self._unread, 0
        self._exchange.taken(unread)

    # -- inside
    @property
    def _link(self) -> RunnerLink | None:
        return self._exchange.carrier  # type: ignore[return-value]

    def _write(self) -> None:
        for data in self._protocol.data_to_send():
            if not self._line.is_open:
                return
            if data:
                self._line.write(data)
            else:
                self._line.end(both=self._protocol.close_rcvd is not None)

    def _tell(self) -> None:
        """The container hears how the client closed."""
        if self._told:
            return
        self._told = True
        received = self._protocol.close_rcvd
        code = received.code if received is not None else 1006
        link = self._link
        if link is not None:
            link.send(self._exchange.token, WebClose(int(code), received.reason if received is not None else ""))
            link.send(self._exchange.token, WebGone("the client closed the WebSocket"))

    def _over(self) -> None:
        if not self._accepted:
            self._exchange.client_gone()
            return
        self._exchange.sink = None
        sent = self._protocol.close_sent
        if not self._told and self._protocol.close_rcvd is None and sent is not None and self._link is not None:
            # The gateway has ended it because of what the client sent.
            self._told = True
            self._link.send(self._exchange.token, WebClose(int(sent.code), sent.reason))
            self._link.send(self._exchange.token, WebGone(sent.reason))
            return
        self._tell()


def _is_line(data: bytes) -> bool:
    return b"\r" not in data and b"\n" not in data
