"""Addresses below localhost, for containers: their workers make the ports there, this finds what is behind each.

The gateway's and tunnels' own addresses may be called `localhost`, which is another machine in each container. Workers
of this machine are told of these ports; connections to them come back as descriptors (`modal._protocol.messages.web`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from socket import socket

from intermodal.server.gateway.gateway import Gateway
from intermodal.server.tunnels.settings import is_localhost
from intermodal.server.tunnels.tunnels import Tunnels

log = logging.getLogger("intermodal.gateway")


class LocalPorts:
    """`await refresh()` when the gateway listens."""

    def __init__(self, gateway: Gateway, tunnels: Tunnels, tell: Callable[[list[int]], Awaitable[None]]) -> None:
        """`tell(ports)` returns when containers have these ports."""
        self._gateway = gateway
        self._tunnels = tunnels
        self._tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        gateway.take_local = self.take
        tunnels.changed = self.refresh

    async def refresh(self) -> None:
        """Containers have the ports that there are now."""
        web = self._web_port()
        await self._tell([*([web] if web else []), *self._tunnels.local_ports()])

    def _web_port(self) -> int:
        """0 where web functions' addresses lead elsewhere, or to a proxy in front."""
        settings, port = self._gateway.settings, self._gateway.routes.port
        leads_here = settings.scheme == "http" and settings.public_port in (0, port)
        return port if leads_here and is_localhost(settings.domain) else 0

    def take(self, port: int, sock: socket) -> None:
        """A container has connected to it."""
        task = asyncio.get_running_loop().create_task(self._serve(port, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, port: int, sock: socket) -> None:
        try:
            sock.setblocking(False)
            if port == self._web_port():
                await asyncio.get_running_loop().connect_accepted_socket(self._gateway.protocol_within, sock)
            elif not await self._tunnels.accept(port, sock):
                sock.close()  # it was closed since
        except OSError as error:  # TLS errors are such too
            log.info("a container's connection to port %d ended early: %s", port, error)
            sock.close()
