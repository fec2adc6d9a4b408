"""API tokens. Their secrets are random, so that a plain hash keeps them."""

from __future__ import annotations

import time
from typing import NamedTuple

from intermodal.server.store.database import Database

_COLUMNS = "token_id, secret_hash, role, note, created_at, used_at"


class TokenRow(NamedTuple):
    token_id: str
    secret_hash: bytes
    role: str  # "client" or "worker"
    note: str
    created_at: float
    used_at: float


class TokenStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[TokenRow]:
        """Oldest first."""
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM tokens ORDER BY created_at")  # noqa: S608
        return [TokenRow(*row) for row in rows]

    async def add(self, token: TokenRow) -> None:
        await self._database.execute(f"INSERT INTO tokens ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", token)  # noqa: S608

    async def used(self, token_id: str) -> None:
        await self._database.execute("UPDATE tokens SET used_at = ? WHERE token_id = ?", (time.time(), token_id))

    async def delete(self, token_id: str) -> bool:
        """False where there is none."""
        return await self._database.execute("DELETE FROM tokens WHERE token_id = ?", (token_id,)) > 0
