"""The gateway's end of containers' connections: handed over by the worker, one a container."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modal._protocol.errors import ProtocolError
from modal._protocol.frames import FrameBuffer, Kind
from modal._protocol.message import Message
from modal._protocol.messages.web import (
    WebAccept,
    WebClose,
    WebCredit,
    WebData,
    WebDone,
    WebFailed,
    WebGone,
    WebHandover,
    WebMessage,
    WebRequest,
    WebResponse,
)
from modal._protocol.sending import FrameSender

if TYPE_CHECKING:
    from intermodal.server.gateway.exchange import Exchange

log = logging.getLogger("intermodal.gateway")

HIGH_WATER = 4 << 20  # bytes that wait for a runner to read; credit bounds them per exchange
MAX_DATAGRAM = 4096


class RunnerLink(FrameSender):
    """The `Carrier` of exchanges with ASGI and WSGI apps."""

    def __init__(self, container_id: str, lost: Callable[[RunnerLink], None]) -> None:
        super().__init__()
        self.container_id = container_id
        self.exchanges: dict[int, Exchange] = {}
        self._lost = lost
        self._buffer = FrameBuffer()

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._corked = True
        try:
            for _kind, type_, token, header, body in self._buffer.feed(data):
                exchange = self.exchanges.get(token)
                if exchange is not None:
                    self._take(exchange, type_, header, body)
        except ProtocolError as error:
            log.warning("%s: its runner broke the protocol: %s", self.container_id, error)
            if self._transport is not None:
                self._transport.abort()
        finally:
            self._corked = False
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._lost(self)

    # -- frames
    def _take(self, exchange: Exchange, type_: int, header: bytes, body: bytes) -> None:
        if type_ == WebResponse.TYPE:
            response = WebResponse.decode(header, body)
            if response.done:
                self._over(exchange, None)
            exchange.respond(response.status, response.headers, response.body, response.more)
        elif type_ == WebData.TYPE:
            data = WebData.decode(header, body)
            exchange.respond_data(data.body, data.more)
        elif type_ == WebDone.TYPE:
            self._over(exchange, WebDone.decode(header, body).seconds)
        elif type_ == WebCredit.TYPE:
            exchange.request_taken(WebCredit.decode(header, body).size)
        elif type_ == WebFailed.TYPE:
            failed = WebFailed.decode(header, body)
            self._over(exchange, None)
            exchange.refuse(500, raised(failed, exchange.route.ephemeral))
        else:
            socket_ = getattr(exchange.sink, "websocket", None)
            if socket_ is None:
                return
            if type_ == WebAccept.TYPE:
                socket_.accept(WebAccept.decode(header, body))
            elif type_ == WebMessage.TYPE:
                socket_.send(WebMessage.decode(header, body))
            elif type_ == WebClose.TYPE:
                socket_.close(WebClose.decode(header, body))

    def _over(self, exchange: Exchange, seconds: float | None) -> None:
        self.exchanges.pop(exchange.token, None)
        exchange.finish_input(seconds)

    def begin(self, exchange: Exchange) -> None:
        """Send a request to the container."""
        request = exchange.request
        self.exchanges[exchange.token] = exchange
        exchange.carrier = self
        body = request.take_body()
        server, port = _split_host(request.host)
        exchange.sent = 0 if request.complete else len(body)
        self.send(
            exchange.token,
            WebRequest(
                exchange.held.input_id,
                exchange.route.method,
                request.is_websocket,
                request.method,
                request.scheme,
                request.version,
                request.client,
                request.client_port,
                server,
                port or (443 if request.scheme == "https" else 80),
                request.root_path,
                request.path,
                request.query,
                b"\0".join(request.flat),
                body,
                not request.complete,
            ),
        )

    def send(self, token: int, message: Message) -> None:
        """One message of an exchange. What is sent during one turn of the loop leaves together."""
        self.send_frame(Kind.ITEM, message.TYPE, token, *message.encode())

    # -- Carrier
    def send_body(self, exchange: Exchange, data: bytes, more: bool) -> None:
        """See exchange.Carrier."""
        self.send(exchange.token, WebData(data, more))

    def grant(self, exchange: Exchange, size: int) -> None:
        """See exchange.Carrier."""
        self.send(exchange.token, WebCredit(size))

    def gone(self, exchange: Exchange, reason: str, cancel: bool) -> None:
        """See exchange.Carrier."""
        if exchange.token in self.exchanges:
            self.send(exchange.token, WebGone(reason, cancel))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def raised(failed: WebFailed, ephemeral: bool) -> str:
    """The text for an app that raised: all of it where the app is being developed, nothing private otherwise."""
    text = "The app raised an exception while it handled this request."
    return f"{text}\n\n{failed.traceback or failed.text}" if ephemeral else f"{text} Its logs say more."


def _split_host(host: bytes) -> tuple[str, int]:
    text = host.decode("latin-1")
    name, colon, port = text.rpartition(":")
    if colon and port.isdigit():
        return name, int(port)
    return text.rstrip(":"), 0


class HandoverSocket:
    """Where workers of this machine give connections: datagrams with one descriptor each."""

    def __init__(self, path: Path, take: Callable[[WebHandover, socket.socket], None]) -> None:
        self._path = path
        self._take = take
        self._loop = asyncio.get_running_loop()
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        before = os.umask(0o177)  # nobody but the owner may give anything
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        while True:
            try:
                data, ancillary, _flags, _address = self._socket.recvmsg(
                    MAX_DATAGRAM, socket.CMSG_SPACE(4 * array.array("i").itemsize)
                )
            except OSError:
                return
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            self._received(data, list(descriptors))

    def _received(self, data: bytes, descriptors: list[int]) -> None:
        try:
            frames = FrameBuffer().feed(data)
            message = WebHandover.decode(frames[0].header, frames[0].body) if len(frames) == 1 else None
        except ProtocolError:
            message = None
        if message is None or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        self._take(message, socket.socket(fileno=descriptors[0]))

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)
