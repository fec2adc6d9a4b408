"""Secrets, encrypted: this module sees their cipher text alone."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from intermodal.server.store.database import Database

_COLUMNS = "secret_id, environment_id, name, content, created_at, used_at"


class SecretRow(NamedTuple):
    secret_id: str
    environment_id: str
    name: str
    content: bytes  # encrypted
    created_at: float
    used_at: float


class SecretStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: SecretRow) -> None:
        """Insert, or replace the content of the one with this id."""
        await self._database.execute(
            f"INSERT INTO secrets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (secret_id) DO UPDATE SET content = excluded.content",
            row,
        )

    async def by_name(self, environment_id: str, name: str) -> SecretRow | None:
        row = await self._database.row(
            f"SELECT {_COLUMNS} FROM secrets WHERE environment_id = ? AND name = ? AND name != ''",  # noqa: S608
            (environment_id, name),
        )
        return None if row is None else SecretRow(*row)

    async def get(self, secret_ids: list[str]) -> dict[str, SecretRow]:
        """By id; what is not known is missing."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM secrets WHERE secret_id IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(secret_ids),),
        )
        return {row[0]: SecretRow(*row) for row in rows}

    async def named(self, environment_id: str) -> list[SecretRow]:
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM secrets WHERE environment_id = ? AND name != '' ORDER BY name",  # noqa: S608
            (environment_id,),
        )
        return [SecretRow(*row) for row in rows]

    async def used(self, secret_ids: list[str]) -> None:
        """Note that they were given to a container or build."""
        values: list[tuple[Any, ...]] = [(time.time(), secret_id) for secret_id in secret_ids]
        await self._database.write(
            lambda connection: connection.executemany("UPDATE secrets SET used_at = ? WHERE secret_id = ?", values)
        )

    async def reseal(self, reseal: Callable[[str, bytes], bytes]) -> int:
        """Give all of them the content that `reseal(secret_id, content)` makes, in one transaction; how many."""

        def work(connection: sqlite3.Connection) -> int:
            rows = connection.execute("SELECT secret_id, content FROM secrets").fetchall()
            connection.executemany(
                "UPDATE secrets SET content = ? WHERE secret_id = ?",
                [(reseal(secret_id, content), secret_id) for secret_id, content in rows],
            )
            return len(rows)

        return await self._database.write(work)

    async def delete(self, secret_id: str) -> None:
        await self._database.execute("DELETE FROM secrets WHERE secret_id = ?", (secret_id,))

    async def drop_inline(self, keep: set[str], older_than: float) -> int:
        """Delete inline secrets that nobody refers to and nobody used since; how many."""
        return await self._database.execute(
            "DELETE FROM secrets WHERE name = '' AND max(created_at, used_at) < ? "
            "AND secret_id NOT IN (SELECT value FROM json_each(?))",
            (older_than, json.dumps(sorted(keep))),
        )
