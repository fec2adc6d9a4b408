"""Tunnels that are open: they outlive the server as their containers do."""

from __future__ import annotations

from typing import NamedTuple

from intermodal.server.store.database import Database

_COLUMNS = "tunnel_id, container_id, port, host, tls_port, tcp_port"


class TunnelRow(NamedTuple):
    tunnel_id: str
    container_id: str
    port: int  # in the container
    host: str
    tls_port: int  # 0: none
    tcp_port: int  # 0: none


class TunnelStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[TunnelRow]:
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM tunnels")  # noqa: S608
        return [TunnelRow(*row) for row in rows]

    async def add(self, tunnel: TunnelRow) -> None:
        await self._database.execute(f"INSERT INTO tunnels ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", tunnel)  # noqa: S608

    async def delete(self, tunnel_id: str) -> None:
        await self._database.execute("DELETE FROM tunnels WHERE tunnel_id = ?", (tunnel_id,))
