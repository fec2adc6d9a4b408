"""The express way: small inputs straight to a container that is idle, and their outputs straight back.

A call then wakes three processes on its way out and back instead of five. It pays where calls are short and come one by
one; it costs the worker's knowledge of what runs, so it is taken for containers alone that have answered at
once lately and have printed nothing, and an input that takes longer than some milliseconds is given to the worker too.
How nothing is lost: see `intermodal.runner.express`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, cast

from intermodal.server.inputs import run_inputs
from modal._protocol.errors import ProtocolError
from modal._protocol.frames import FrameBuffer, Kind
from modal._protocol.messages.worker import ExpressAck, ExpressReady, RunInputs, RunOutputs
from modal._protocol.sending import FrameSender

if TYPE_CHECKING:
    from intermodal.server.dispatch import Dispatch
    from intermodal.server.inputs import Held
    from intermodal.server.live import Container

log = logging.getLogger("intermodal.express")

STREAM = 1  # as the runner numbers the container's stream
QUICK_SECONDS = 0.002  # an input that takes no longer is quick
QUICK_INPUTS = 3  # so many quick ones one after the other open the way
PRINTED = -100  # quick ones that are wanting when an input has printed
COPY_SECONDS = 0.01  # after this time the worker is told of an input
ACK_SECONDS = 0.05  # how long an output that has arrived may stay unacknowledged
MAX_ARGS = 1 << 16  # bytes
AT_ONCE = max(1, (os.cpu_count() or 2) // 2)  # containers that use it at the same time: it saves waiting, not work


class ExpressLink(FrameSender):
    """The server's end of one container's express way."""

    def __init__(self, express: Express, container: Container) -> None:
        super().__init__()
        self.ready = False  # the container listens
        self.arrived: list[int] = []  # tokens of outputs that have reached their clients
        self.token = 0  # of the newest input that was sent
        self._container = container
        self._express = express
        self._buffer = FrameBuffer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send_frame(Kind.NOTE, ExpressReady.TYPE, 0, *ExpressReady().encode())

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._buffer.feed(data):
                if frame.type == RunOutputs.TYPE:
                    self._express.take(self._container, RunOutputs.decode(frame.header, frame.body))
                elif frame.type == ExpressReady.TYPE:
                    self.ready = True
        except ProtocolError as error:
            log.warning("%s: its runner broke the protocol: %s", self._container.id, error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._transport = None
        self._express.lost(self._container, self)

    def send(self, message: RunInputs) -> None:
        """At once, with what is to be acknowledged."""
        self.token = message.tokens[0]
        self.send_frame(Kind.ITEM, message.TYPE, STREAM, *message.encode())
        self.acknowledge()

    def acknowledge(self) -> None:
        """Say which outputs have arrived."""
        if self.arrived:
            message = ExpressAck(self.arrived)
            self.arrived = []
            self.send_frame(Kind.NOTE, message.TYPE, 0, *message.encode())
        self.flush()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Express:
    """Decides what takes the way, and keeps the worker informed."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._running: dict[Container, tuple[Held, float]] = {}  # sent, and when
        self._looking = False
        self._acknowledging: set[ExpressLink] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, container_id: str, sock: socket.socket) -> None:
        """A worker hands over a container's connection."""
        container = self._dispatch.containers.get(container_id)
        if container is None:
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._open(container, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, container: Container, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _transport, link = await loop.create_unix_connection(lambda: ExpressLink(self, container), sock=sock)
        old, container.express = container.express, link
        if old is not None:
            old.close()
        if container.id not in self._dispatch.containers:
            link.close()

    # -- inputs
    def send(self, container: Container, held: Held) -> bool:
        """Send an input by this way, if it is for this way. False: the worker must have it."""
        link = container.express
        if (
            link is None
            or not link.ready
            or link.closed
            or container.quick < QUICK_INPUTS
            or len(container.tokens) != 1  # it is the only one there
            or held.call.kind != "unary"
            or held.blob
            or len(held.args) > MAX_ARGS
        ):
            return False
        if len(self._running) >= AT_ONCE and not self._has_room():
            return False
        link.send(run_inputs([held]))
        self._running[container] = held, time.monotonic()
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(COPY_SECONDS, self._look)
        return True

    def _has_room(self) -> bool:
        for other, (held, _sent) in list(self._running.items()):
            if not _runs(other, held):
                del self._running[other]
        return len(self._running) < AT_ONCE

    def _look(self) -> None:
        """Tell workers of what takes its time."""
        now = time.monotonic()
        for container, (held, sent) in list(self._running.items()):
            if not _runs(container, held):
                del self._running[container]
            elif now - sent >= COPY_SECONDS:
                del self._running[container]
                self._copy(container, held)
        self._looking = bool(self._running)
        if self._looking:
            asyncio.get_running_loop().call_later(COPY_SECONDS, self._look)

    def _copy(self, container: Container, held: Held) -> None:
        container.quick = 0
        if container.link is not None:  # else the worker tells what its containers have when it is back
            container.link.send(run_inputs([held]))

    def lost(self, container: Container, link: ExpressLink) -> None:
        """The connection has ended; nearly always with its container."""
        if container.express is link:
            container.express = None
        held, _sent = self._running.pop(container, (None, 0.0))
        if held is not None and _runs(container, held) and container.id in self._dispatch.containers:
            self._copy(container, held)

    # -- outputs
    def take(self, container: Container, message: RunOutputs) -> None:
        """Outputs that came by this way."""
        if container.id in self._dispatch.containers:
            self._dispatch.take_express(container, message)

    def learn(self, container: Container, tokens: list[int], seconds: float | None, by_express: bool) -> None:
        """How an answer has come, and how long it took."""
        link = container.express
        if link is not None and not by_express and link.token in tokens:
            container.quick = PRINTED
        elif seconds is None or seconds > QUICK_SECONDS:
            container.quick = min(container.quick, 0)
        elif container.quick < QUICK_INPUTS:
            container.quick += 1

    def arrived(self, container: Container, token: int) -> None:
        """An output has reached its client: the container need not keep it."""
        link = container.express
        if link is None or link.closed:
            return
        link.arrived.append(token)
        if not self._acknowledging:
            asyncio.get_running_loop().call_later(ACK_SECONDS, self._acknowledge)
        self._acknowledging.add(link)

    def _acknowledge(self) -> None:
        links, self._acknowledging = self._acknowledging, set()
        for link in links:
            link.acknowledge()


def _runs(container: Container, held: Held) -> bool:
    return container.tokens.get(held.token) is held
