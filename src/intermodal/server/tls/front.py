"""A TLS port where the client's greeting says which certificate is shown, and may wait until there is one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable

from intermodal.server.tls.greeting import LIMIT, Greeting, Short, parse

log = logging.getLogger("intermodal.tls")

GREETING_SECONDS = 20.0  # that a client has to send its greeting, and again for the handshake
WAITING = 10_000  # clients whose greeting is not over: beyond, nobody is accepted
PAUSE = 0.5  # seconds without accepting, where the process has no descriptor left
UNKNOWN_NAME = b"\x15\x03\x03\x00\x02\x02\x70"  # a fatal alert, unrecognized_name

Choose = Callable[[Greeting], Awaitable[tuple[ssl.SSLContext, Callable[[], asyncio.Protocol]] | None]]


class Front:
    """`close()` ends the port; connections go on."""

    def __init__(self, choose: Choose) -> None:
        """`choose(greeting)` gives what is shown and who serves the connection; None turns the client away."""
        self.sockets: list[socket.socket] = []
        self._choose = choose
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self._listening = False

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        loop = asyncio.get_running_loop()
        for family, kind, _protocol, _name, address in await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            sock = socket.socket(family, kind)
            self.sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            try:
                sock.bind(address)
                sock.listen(1024)
            except OSError:
                self.close()
                raise
        self._resume()

    def close(self) -> None:
        self._pause()
        if self._paused is not None:
            self._paused.cancel()
        for sock in self.sockets:
            sock.close()
        for task in self._tasks:
            task.cancel()

    # -- accepting
    def _resume(self) -> None:
        self._paused = None
        if not self._listening and len(self._tasks) < WAITING:
            self._listening = True
            for sock in self.sockets:
                asyncio.get_running_loop().add_reader(sock.fileno(), self._accept, sock)

    def _pause(self) -> None:
        if self._listening:
            self._listening = False
            for sock in self.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            sock, _address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.warning("no connection can be accepted: %s", error)
            self._pause()
            self._paused = loop.call_later(PAUSE, self._resume)
            return
        sock.setblocking(False)
        task = loop.create_task(self._serve(sock))
        self._tasks.add(task)
        task.add_done_callback(self._served)
        if len(self._tasks) >= WAITING:
            self._pause()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._listening and self._paused is None and self.sockets[0].fileno() >= 0:
            self._resume()

    async def _serve(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                greeting = await _greeting(sock)
            chosen = await self._choose(greeting)
            if chosen is None:
                _turn_away(sock, UNKNOWN_NAME)
                return
            context, protocol = chosen
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol, sock, ssl=context, ssl_handshake_timeout=GREETING_SECONDS
            )
        except (OSError, ValueError, TimeoutError) as error:  # TLS errors are OSErrors
            log.debug("a greeting came to nothing: %s", error)
            _turn_away(sock)
        except asyncio.CancelledError:
            sock.close()
            raise


def _turn_away(sock: socket.socket, data: bytes = b"") -> None:
    """Close it; what was only looked at is read before, or the client would be told of a reset and nothing else."""
    with contextlib.suppress(OSError):
        sock.recv(LIMIT)
        sock.send(data)
        sock.shutdown(socket.SHUT_WR)
    sock.close()


async def _greeting(sock: socket.socket) -> Greeting:
    """Look at it, and leave it to be read. Raises ValueError, OSError."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data = sock.recv(LIMIT, socket.MSG_PEEK)
        except BlockingIOError:
            data = None
        else:
            if not data:
                raise ValueError("the client left")
        try:
            greeting = parse(data or b"")
        except Short as short:
            # The socket counts as readable when so many bytes are there, or there will be no more.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, short.needed)
            if data is not None and len(data) >= short.needed:
                raise ValueError("the greeting ends early") from None
            await _readable(loop, sock, len(data or b""))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return greeting


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket, before: int) -> None:
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())
    if before and len(sock.recv(LIMIT, socket.MSG_PEEK)) == before:
        raise ValueError("the client left in the middle of its greeting")
