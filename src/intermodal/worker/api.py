"""A container's way to the server: each connection to its `api.sock` becomes one to the server.

The container cannot say who it is: the worker greets the server in its place, with the container's
id, and passes everything else on unread.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from modal._protocol.address import Address, parse
from modal._protocol.errors import Code, Fault, ProtocolError
from modal._protocol.frames import Frame, FrameBuffer, Kind, pack
from modal._protocol.messages.wire import Failure, Hello

HIGH_WATER = 1 << 20  # bytes that may wait for a slow reader


class Inner(asyncio.Protocol):
    """The container's side of one connection."""

    def __init__(
        self,
        container_id: str,
        server: str,
        credentials: Hello,
        refused: Callable[[], Fault | None],
        environment: str = "",
        knows: Callable[[], bool] = lambda: True,
    ) -> None:
        """`refused()` says why the container may not, `knows()` whether the server knows it by now."""
        self._knows = knows
        self._container_id = container_id
        self._environment = environment
        self._server = server
        self._credentials = credentials
        self._refused = refused
        self._buffer: FrameBuffer | None = FrameBuffer()
        self._early: list[bytes] = []
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.outer: Outer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=HIGH_WATER)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        if self.outer is not None:
            self.outer.transport.write(data)
            return
        if self._buffer is None:
            self._early.append(data)
            return
        try:
            frames = self._buffer.feed(data)
        except ProtocolError as error:
            self._fail(Fault(Code.INVALID, str(error)))
            return
        if not frames:
            return
        self._buffer = None
        self._early.extend(pack(f.kind, f.type, f.stream, f.header, f.body) for f in frames[1:])
        self._greet(frames[0])

    def _greet(self, frame: Frame) -> None:
        fault = self._refused()
        if fault is None and frame.kind != Kind.HELLO:
            fault = Fault(Code.INVALID, "the client did not say hello")
        if fault is not None:
            self._fail(fault)
            return
        try:
            said = Hello.decode(frame.header, frame.body)
        except ProtocolError as error:
            self._fail(Fault(Code.INVALID, str(error)))
            return
        hello = Hello(
            "container", said.version_min, said.version_max, said.software, said.python,
            self._credentials.token_id, self._credentials.token_secret, self._container_id,
            self._credentials.worker_id, self._environment,
        )  # fmt: skip
        self._task = asyncio.get_running_loop().create_task(self._dial(hello))

    async def _dial(self, hello: Hello) -> None:
        where: Address = parse(self._server)
        loop = asyncio.get_running_loop()
        try:
            if not self._knows():
                raise ConnectionError("the server may not know the container yet")
            if where.scheme == "unix":
                _, outer = await loop.create_unix_connection(lambda: Outer(self), where.host)
            else:
                _, outer = await loop.create_connection(lambda: Outer(self), where.host, where.port)
        except OSError:  # it is being started again, say: whoever loses a connection tries again, as long as is fit
            if self.transport is not None:
                self.transport.close()
            return
        outer.transport.write(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))
        for data in self._early:
            outer.transport.write(data)
        self._early.clear()
        self.outer = outer
        if self.transport is None or self.transport.is_closing():
            outer.transport.close()

    def _fail(self, fault: Fault) -> None:
        if self.transport is not None:
            self.transport.write(pack(Kind.FAULT, Failure.TYPE, 0, *Failure(fault.code, fault.text).encode()))
            self.transport.close()

    def pause_writing(self) -> None:
        if self.outer is not None:
            self.outer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.outer is not None:
            self.outer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.outer is not None:
            self.outer.transport.close()


class Outer(asyncio.Protocol):
    """The server's side of the same connection."""

    transport: asyncio.Transport

    def __init__(self, inner: Inner) -> None:
        self._inner = inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self._inner.transport is not None:
            self._inner.transport.write(data)

    def pause_writing(self) -> None:
        if self._inner.transport is not None:
            self._inner.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._inner.transport is not None:
            self._inner.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner.transport is not None:
            self._inner.transport.close()


async def listen(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], asyncio.Protocol], path: Path
) -> asyncio.AbstractServer:
    """A unix server; paths that are too long for the kernel are reached through their directory's descriptor."""
    if len(os.fsencode(path)) < 104:
        server = await loop.create_unix_server(factory, str(path), backlog=128)
    else:
        descriptor = os.open(path.parent, os.O_PATH)
        try:
            server = await loop.create_unix_server(factory, f"/proc/self/fd/{descriptor}/{path.name}", backlog=128)
        finally:
            os.close(descriptor)
    os.chmod(path, 0o666)  # noqa: S103 - any user of the container; the directory is the container's own
    return server
