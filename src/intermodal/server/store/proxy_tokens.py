"""Proxy auth tokens: what callers of protected web functions show."""

from __future__ import annotations

import time
from typing import NamedTuple

from intermodal.server.store.database import Database

_COLUMNS = "token_id, secret_hash, note, created_at, used_at"


class ProxyTokenRow(NamedTuple):
    token_id: str
    secret_hash: bytes
    note: str
    created_at: float
    used_at: float


class ProxyTokenStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[ProxyTokenRow]:
        """Oldest first."""
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM proxy_tokens ORDER BY created_at")  # noqa: S608
        return [ProxyTokenRow(*row) for row in rows]

    async def add(self, token: ProxyTokenRow) -> None:
        await self._database.execute(f"INSERT INTO proxy_tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", token)  # noqa: S608

    async def used(self, token_id: str) -> None:
        await self._database.execute("UPDATE proxy_tokens SET used_at = ? WHERE token_id = ?", (time.time(), token_id))

    async def delete(self, token_id: str) -> bool:
        """False where there is none."""
        return await self._database.execute("DELETE FROM proxy_tokens WHERE token_id = ?", (token_id,)) > 0
