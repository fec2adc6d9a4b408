"""Bytes between a client and a container's port, in both directions; a slow side slows the other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

HIGH_WATER = 1 << 20  # bytes that may wait for a slow reader

Connect = Callable[[], Awaitable[socket.socket]]


class Side(asyncio.Protocol):
    """One of the two ends."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._ended = False  # nothing more comes from here

    def closed(self) -> bool:
        """Whether nothing can be sent there any more."""
        return self.transport is None or self.transport.is_closing()

    def close(self) -> None:
        """End it at once."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=HIGH_WATER)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Half of the connection is over; the other half goes on, which TLS does not know."""
        self._ended = True
        other = self.other
        if other is None or other.transport is None:
            return False
        if other.transport.can_write_eof():
            other.transport.write_eof()
            return not other._ended and self.transport is not None and self.transport.can_write_eof()
        other.transport.close()
        return False

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Client(Side):
    """The end outside. The container's end is connected when the client is there."""

    def __init__(self, clients: set[Client]) -> None:
        super().__init__()
        self._clients = clients
        self._early: list[bytes] = []  # came before the container was there
        self._task: asyncio.Task[None] | None = None

    def begin(self, connect: Connect) -> None:
        """Little is read from the client before the container has answered."""
        assert self.transport is not None
        self._clients.add(self)
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._connect(connect))

    async def _connect(self, connect: Connect) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock = await connect()
        except Exception:  # it was logged; there is no way to tell a client of TCP why
            self.close()
            return
        inner = Side()
        inner.other = self
        if self.closed():
            sock.close()
            return
        try:
            await loop.create_connection(lambda: inner, sock=sock)
        except OSError:
            sock.close()
            self.close()
            return
        self.other = inner
        if self.closed() or inner.transport is None:
            inner.close()
            self.close()
            return
        for data in self._early:
            inner.transport.write(data)
        self._early.clear()
        if self.transport is not None:
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)  # uvloop reads once although the transport was paused at its beginning
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._clients.discard(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """The tunnel is closed."""
        if self._task is not None:
            self._task.cancel()
        self.close()
        if self.other is not None:
            self.other.close()
