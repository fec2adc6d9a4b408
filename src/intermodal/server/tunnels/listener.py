"""Sockets on which tunnels are reached."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import ssl
from collections.abc import Callable

from intermodal.server.tunnels.pipe import Client, Connect

Find = Callable[[str], Connect | None]  # the way to the container behind a host name
ATTEMPTS = 50  # ports of a range that are tried


class Plain(Client):
    """A connection to a tunnel with a port of its own."""

    def __init__(self, clients: set[Client], connect: Connect) -> None:
        super().__init__(clients)
        self._way = connect

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.begin(self._way)


class Named(Client):
    """A connection that says in its TLS greeting which tunnel it wants."""

    def __init__(self, find: Find, clients_of: Callable[[str], set[Client]]) -> None:
        super().__init__(set())
        self._find = find
        self._clients_of = clients_of

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        name = server_name(transport)
        way = self._find(name)
        if way is None:  # it was closed since the greeting
            self.transport.abort()
            return
        self._clients = self._clients_of(name)
        self.begin(way)


def server_name(transport: asyncio.BaseTransport) -> str:
    """What the client's TLS greeting called the server, "" where it did not."""
    return str(getattr(transport.get_extra_info("ssl_object"), "intermodal_name", ""))


def remember_names(context: ssl.SSLContext, known: Callable[[str], bool] | None = None) -> None:
    """Keep what greetings ask for, for `server_name`; refuse those whose name `known` does not know."""

    def greeted(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
        connection.intermodal_name = (name or "").lower()  # type: ignore[attr-defined]
        if known is not None and not known((name or "").lower()):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        return None

    context.sni_callback = greeted


def bind(host: str, port: int, first: int = 0, last: int = 0) -> socket.socket:
    """A listening socket on that port; with 0, on one of first to last, or any free one. Raises OSError."""
    if port or not first:
        return _bind(host, port)
    chosen = random.sample(range(first, last + 1), min(ATTEMPTS, last + 1 - first))
    for candidate in chosen:
        try:
            return _bind(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port from {first} to {last} is free")


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
