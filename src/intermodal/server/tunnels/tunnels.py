"""All tunnels: opened for a container, found by clients, closed with the container at the latest."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from socket import socket

from intermodal.server.ids import new_id
from intermodal.server.store.tunnels import TunnelRow, TunnelStore
from intermodal.server.tls.certificate import Certificate
from intermodal.server.tunnels.listener import Named, Plain, bind, remember_names
from intermodal.server.tunnels.pipe import Client, Connect
from intermodal.server.tunnels.settings import TunnelSettings, is_localhost
from modal._protocol.errors import Code, Fault

log = logging.getLogger("intermodal.tunnels")

MOST = 64  # tunnels of one container
MOST_LOCAL = 32  # tunnels with ports of their own at containers' loopback addresses: each is a socket in each
PATIENCE = 5.0  # seconds that a port may take to listen: a tunnel is often opened before its server
RETRY = 0.1  # seconds between attempts
ADOPTION = 15.0  # seconds after a start of the server within which containers are there again
HANDSHAKE = 20.0  # seconds for a client's TLS greeting

ConnectPort = Callable[[str, int], Awaitable[socket]]  # container id, port


@dataclass
class _Open:
    row: TunnelRow
    servers: list[asyncio.Server] = field(default_factory=list)
    clients: set[Client] = field(default_factory=set)


class Tunnels:
    """`await start()`; `await close()` ends the listeners and leaves the tunnels to the next server."""

    def __init__(
        self,
        settings: TunnelSettings,
        store: TunnelStore,
        certificate: Callable[[list[str]], Certificate],
        connect: ConnectPort,
        is_running: Callable[[str], bool],
    ) -> None:
        self.settings = settings
        self.changed: Callable[[], Awaitable[None]] = _nothing  # awaited when there are other ports than before
        self._store = store
        self._certificate = certificate  # called when a tunnel with TLS is opened
        self._connect = connect
        self._is_running = is_running
        self._tunnels: dict[str, _Open] = {}
        self._by_host: dict[str, _Open] = {}
        self._shared: asyncio.Server | None = None  # for tunnels that are told apart by name
        self._shared_port = 0
        self._shared_context: ssl.SSLContext | None = None
        self._context: ssl.SSLContext | None = None
        self._opening = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Tunnels of containers that may still run are there again, at the same addresses."""
        rows = await self._store.all()
        for row in rows:
            try:
                await self._listen(row)
            except (OSError, Fault) as error:
                log.warning("the tunnel %s to port %d of %s is lost: %s", row.host, row.port, row.container_id, error)
                await self._store.delete(row.tunnel_id)
        if rows:
            asyncio.get_running_loop().call_later(ADOPTION, self._forget_lost)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for tunnel in self._tunnels.values():
            _shut(tunnel)
        if self._shared is not None:
            self._shared.close()

    # -- opening and closing
    async def open(
        self, container_id: str, port: int, *, encrypted: bool = True, unencrypted: bool = False
    ) -> TunnelRow:
        """Faults: invalid, exhausted."""
        if not 1 <= port <= 65535:
            raise Fault(Code.INVALID, f"a tunnel leads to a port from 1 to 65535, not to {port}")
        if sum(tunnel.row.container_id == container_id for tunnel in self._tunnels.values()) >= MOST:
            raise Fault(Code.EXHAUSTED, f"a container may have {MOST} tunnels: close some first")
        named = self.settings.named and encrypted
        host = f"{secrets.token_hex(8)}.{self.settings.host}" if named else self.settings.host
        row = TunnelRow(new_id("tu"), container_id, port, host, -1 if encrypted else 0, -1 if unencrypted else 0)
        try:
            row = await self._listen(row)
        except OSError as error:
            raise Fault(
                Code.EXHAUSTED,
                f"no port can be had for the tunnel: {error.strerror or error} (INTERMODAL_TUNNEL_LISTEN, "
                "INTERMODAL_TUNNEL_PORTS)",
            ) from None
        await self._store.add(row)
        await self.changed()
        if not self._is_running(container_id):  # it has ended meanwhile
            await self.end(row.tunnel_id)
        return row

    async def end(self, tunnel_id: str, container_id: str = "") -> None:
        """With `container_id`: only if it is that container's."""
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None or (container_id and tunnel.row.container_id != container_id):
            return
        del self._tunnels[tunnel_id]
        self._by_host.pop(tunnel.row.host, None)
        _shut(tunnel)
        await self._store.delete(tunnel_id)
        await self.changed()

    def container_gone(self, container_id: str) -> None:
        """Nothing leads there any more."""
        for tunnel in [tunnel for tunnel in self._tunnels.values() if tunnel.row.container_id == container_id]:
            task = asyncio.get_running_loop().create_task(self.end(tunnel.row.tunnel_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _forget_lost(self) -> None:
        for container_id in {tunnel.row.container_id for tunnel in self._tunnels.values()}:
            if not self._is_running(container_id):
                self.container_gone(container_id)

    # -- listening
    async def _listen(self, row: TunnelRow) -> TunnelRow:
        """Be reachable at the row's ports, -1 being any. Returns the row with the ports that it has got."""
        tunnel = _Open(row)
        way = self._way(row)
        settings = self.settings
        try:
            if row.tls_port:
                # A row of an earlier life may be of other settings: its host says what it is.
                if row.host not in (settings.host, "localhost"):
                    await self._share(row.tls_port)
                    row = row._replace(tls_port=self._shared_port)
                else:
                    port = await self._add(tunnel, row.tls_port, way, self._tls())
                    row = row._replace(tls_port=port)
            if row.tcp_port:
                row = row._replace(tcp_port=await self._add(tunnel, row.tcp_port, way, None))
        except BaseException:
            _shut(tunnel)
            raise
        tunnel.row = row
        self._tunnels[row.tunnel_id] = tunnel
        if row.host != settings.host:
            self._by_host[row.host] = tunnel
        return row

    async def _add(self, tunnel: _Open, port: int, way: Connect, context: ssl.SSLContext | None) -> int:
        settings = self.settings
        sock = bind(settings.listen, max(port, 0), settings.first, settings.last)
        server = await asyncio.get_running_loop().create_server(
            lambda: Plain(tunnel.clients, way),
            sock=sock,
            ssl=context,
            ssl_handshake_timeout=None if context is None else HANDSHAKE,
        )
        tunnel.servers.append(server)
        return int(sock.getsockname()[1])

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = self._certificate(self.settings.certificate_names).new_context()
        return self._context

    async def _share(self, before: int) -> None:
        """The one port of all tunnels that are told apart by name: the one that they had `before`, if that is known."""
        async with self._opening:
            if self._shared is not None:
                return
            settings = self.settings
            self._shared_context = context = self._certificate(settings.certificate_names).new_context()
            remember_names(context, lambda name: name in self._by_host)
            sock = bind(settings.listen, settings.port) if settings.fixed else _bind_any(settings, before)
            self._shared = await asyncio.get_running_loop().create_server(
                lambda: Named(self.find, self._clients_of), sock=sock, ssl=context, ssl_handshake_timeout=HANDSHAKE
            )
            self._shared_port = int(sock.getsockname()[1])

    # -- from containers
    def local_ports(self) -> list[int]:
        """Ports that containers need at their own loopback address: tunnels are called `localhost` there too."""
        if not is_localhost(self.settings.host):
            return []
        rows = [tunnel.row for tunnel in self._tunnels.values()]
        own = [port for row in rows for port in (row.tls_port, row.tcp_port) if port and port != self._shared_port]
        return [*([self._shared_port] if self._shared is not None else []), *own[-MOST_LOCAL:]]

    async def accept(self, port: int, sock: socket) -> bool:
        """Take over a connection to one of `local_ports`; False where no tunnel has it. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._shared is not None and port == self._shared_port:
            assert self._shared_context is not None
            await loop.connect_accepted_socket(
                lambda: Named(self.find, self._clients_of),
                sock,
                ssl=self._shared_context,
                ssl_handshake_timeout=HANDSHAKE,
            )
            return True
        tunnels = self._tunnels.values()
        found = next((one for one in tunnels if port in (one.row.tls_port, one.row.tcp_port)), None)
        if found is None:
            return False
        secure = port == found.row.tls_port
        await loop.connect_accepted_socket(
            lambda: Plain(found.clients, self._way(found.row)),
            sock,
            ssl=self._tls() if secure else None,
            ssl_handshake_timeout=HANDSHAKE if secure else None,
        )
        return True

    def find(self, host: str) -> Connect | None:
        """The way to the container behind a tunnel's name."""
        tunnel = self._by_host.get(host)
        return None if tunnel is None else self._way(tunnel.row)

    def _clients_of(self, host: str) -> set[Client]:
        tunnel = self._by_host.get(host)
        return set() if tunnel is None else tunnel.clients

    def _way(self, row: TunnelRow) -> Connect:
        async def connect() -> socket:
            loop = asyncio.get_running_loop()
            until = loop.time() + PATIENCE
            while True:
                try:
                    return await self._connect(row.container_id, row.port)
                except (Fault, OSError) as error:
                    if loop.time() > until or row.tunnel_id not in self._tunnels:
                        log.info("a client of %s was turned away: %s", row.tunnel_id, error)
                        raise
                await asyncio.sleep(RETRY)

        return connect


async def _nothing() -> None:
    """Nobody wants to know."""


def _bind_any(settings: TunnelSettings, before: int) -> socket:
    """At the port from before, else at the default one, else at any. Raises OSError."""
    for port in (before, settings.port):
        if port > 0:
            with contextlib.suppress(OSError):
                return bind(settings.listen, port)
    return bind(settings.listen, 0)


def _shut(tunnel: _Open) -> None:
    for server in tunnel.servers:
        with contextlib.suppress(RuntimeError):
            server.close()
    for client in list(tunnel.clients):
        client.abort()
