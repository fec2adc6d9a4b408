"""Where clients, workers and web requests come in: the socket of the state directory, ports, the gateway's own port."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from intermodal.home import Home
from intermodal.server.acme.door import Door
from intermodal.server.acme.issuance import Issuance
from intermodal.server.gateway.gateway import Gateway
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.rpc.access import Gate
from intermodal.server.store.migrations import Refused
from intermodal.server.tls.certificates import Certificates
from intermodal.server.tls.front import Front
from modal._protocol.address import Address, parse
from modal._protocol.aio import Connection, Handlers, acceptor, serve
from modal._protocol.errors import ProtocolError

_log = logging.getLogger("intermodal.server")
Listener = asyncio.Server | Front


class Listeners:
    """All of a server, and the connections that came by them. `connected` hears of each that has greeted."""

    def __init__(
        self,
        home: Home,
        gate: Gate,
        gateway: Gateway,
        certificates: Certificates,
        issuance: Issuance | None,
        connected: Callable[[Connection], None],
    ) -> None:
        self._home = home
        self._gate = gate
        self._gateway = gateway
        self._certificates = certificates
        self._issuance = issuance
        self._tell = connected
        self.addresses: list[str] = []  # where this server can be reached, in the order in which they were opened
        self.open_ones: list[Listener] = []
        self.connections: set[Connection] = set()

    async def open(self, listen: Sequence[str], web: WebSettings) -> None:
        """The home's socket, the addresses in `listen`, and the gateway's port. Raises Refused."""
        self._home.socket.unlink(missing_ok=True)
        before = os.umask(0o177)  # nobody but the owner may connect
        try:
            await self._serve(parse(self._home.address), web)
        finally:
            os.umask(before)
        for text in listen:
            try:
                where = parse(text)
            except ProtocolError as error:
                raise Refused(str(error)) from None
            context = self._tls() if where.scheme == "tls" and self._issuance is None else None
            try:
                await self._serve(where, web, context)
            except OSError as error:
                raise Refused(
                    f"cannot listen on {where} ({error.strerror or error}): is the port in use? "
                    "Choose another with --listen"
                ) from None
            if where.scheme == "tcp" and where.host not in ("127.0.0.1", "::1", "localhost"):
                _log.warning("%s is not encrypted: tokens and data can be read on the way; use tls:// instead", where)
        self._gateway.open()
        if web.listen is not None:
            await self._open_web(web, *web.listen)

    def close(self) -> None:
        """Nobody new comes in."""
        for listener in self.open_ones:
            listener.close()
        if self.open_ones:
            self._home.socket.unlink(missing_ok=True)

    def hang_up(self) -> None:
        """End the connections that are there."""
        for connection in list(self.connections):
            connection.close()

    def accept_frames(self) -> Connection:
        """For a connection on which HTTP was spoken before."""
        connection = Connection(Handlers(), accepting=True, greet=self._gate.greet, http=self._gateway.protocol)
        connection.greeted.add_done_callback(lambda done: None if done.exception() else self._connected(connection))
        return connection

    async def _open_web(self, web: WebSettings, host: str, port: int) -> None:
        """One port of this machine for HTTP, and for frames; the same one after a restart, where that is possible."""
        choices = [port] if web.fixed else [self._gateway.remembered_port() or port, port, 0]
        for choice in dict.fromkeys(choices):
            try:
                listener = await self._serve(Address("tcp", host, choice), web)
            except OSError as error:
                if choice and not web.fixed and error.errno == errno.EADDRINUSE:
                    continue
                raise Refused(
                    f"the gateway cannot listen on {host}:{choice} ({error.strerror or error}): is the port in use? "
                    "INTERMODAL_WEB_LISTEN=HOST:PORT chooses another, INTERMODAL_WEB_LISTEN=off none"
                ) from None
            self._gateway.remember_port(listener.sockets[0].getsockname()[1])
            return

    async def _serve(self, where: Address, web: WebSettings, context: ssl.SSLContext | None = None) -> Listener:
        listener: Listener
        greet, http = self._gate.greet, self._gateway.protocol
        if where.scheme == "tls" and self._issuance is not None:
            brought = self._certificates.get([]) if self._certificates.own else None
            protocol = acceptor(greet, Handlers(), connected=self._connected, http=http)
            listener = front = Front(Door(self._issuance, brought, web.domain, protocol).choose)
            await front.open(where.host, where.port)
        else:
            made = await serve(where, greet, Handlers(), ssl=context, connected=self._connected, http=http)
            listener = cast("asyncio.Server", made)
        self.open_ones.append(listener)
        if where.scheme != "unix":
            where = Address(where.scheme, where.host, listener.sockets[0].getsockname()[1])
        self.addresses.append(str(where))
        return listener

    def _tls(self) -> ssl.SSLContext:
        if not self._certificates.own:
            raise Refused(
                "a tls:// address needs --tls-cert (and --tls-key, unless the certificate's file holds the key), "
                "or certificates by ACME (INTERMODAL_ACME)"
            )
        context = self._certificates.get([]).new_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _connected(self, connection: Connection) -> None:
        self.connections.add(connection)
        connection.on_close.append(lambda _error: self.connections.discard(connection))
        self._tell(connection)
