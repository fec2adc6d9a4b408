"""Tunnels on the wire."""

from __future__ import annotations

from intermodal.server.principal import Principal, Role, principal_of
from intermodal.server.tunnels.tunnels import Tunnels
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.tunnel import TunnelClose, TunnelOpen, TunnelOpened
from modal._protocol.messages.wire import Done


class TunnelHandlers:
    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels

    def register(self, handlers: Handlers) -> None:
        handlers.unary(TunnelOpen)(self.open)
        handlers.unary(TunnelClose)(self.close)

    async def open(self, connection: Connection, message: TunnelOpen) -> TunnelOpened:
        row = await self._tunnels.open(
            _container(connection).container_id, message.port, unencrypted=message.unencrypted
        )
        plain = self._tunnels.settings.host if row.tcp_port else ""
        return TunnelOpened(row.tunnel_id, row.host, row.tls_port, plain, row.tcp_port)

    async def close(self, connection: Connection, message: TunnelClose) -> Done:
        await self._tunnels.end(message.tunnel_id, _container(connection).container_id)
        return Done()


def _container(connection: Connection) -> Principal:
    principal = principal_of(connection)
    if principal.role != Role.CONTAINER:
        raise Fault(Code.INVALID, "a tunnel is opened from inside a container")
    return principal
