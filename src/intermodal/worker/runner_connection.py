"""A runner's connection to its worker. What it sends is bounded and checked: it is not trusted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from modal._protocol.errors import ProtocolError
from modal._protocol.frames import FrameBuffer, Kind, pack
from modal._protocol.messages.wire import Hello

if TYPE_CHECKING:
    from intermodal.worker.cell import Cell

log = logging.getLogger("intermodal.cell")

RUNNER_STREAM = 1  # the container's stream, as numbered between runner and worker


class RunnerConnection(asyncio.Protocol):
    """Tells its cell what comes, and when it is gone."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._buffer = FrameBuffer()
        self._greeted = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._buffer.feed(data):
                if self._greeted:
                    self._cell.from_runner(self, frame)
                elif frame.kind == Kind.HELLO:
                    self._greeted = True
                    self._cell.greeted(self, Hello.decode(frame.header, frame.body))
                else:
                    raise ProtocolError("a runner says hello first")
        except ProtocolError as error:
            log.warning("%s: its runner broke the protocol: %s", self._cell.container_id, error)
            if self.transport is not None:
                self.transport.abort()

    def send(self, kind: int, type: int, header: bytes, body: bytes, stream: int = RUNNER_STREAM) -> None:
        if self.transport is not None:
            self.transport.write(pack(kind, type, stream, header, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._cell.runner_lost(self)
