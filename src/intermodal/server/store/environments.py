"""Environments: the name spaces of apps and secrets."""

from __future__ import annotations

import sqlite3
import time
from typing import NamedTuple

from intermodal.server.ids import new_id
from intermodal.server.store.database import Database

DEFAULT = "main"
_COLUMNS = "environment_id, name, web_suffix, is_default"


class Environment(NamedTuple):
    environment_id: str
    name: str
    web_suffix: str
    default: bool


class EnvironmentStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure_default(self) -> None:
        """A new store has the environment `main`."""

        def work(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM environments").fetchone() is None:
                connection.execute(
                    "INSERT INTO environments (environment_id, name, is_default, created_at) VALUES (?, ?, 1, ?)",
                    (new_id("en"), DEFAULT, time.time()),
                )

        await self._database.write(work)

    async def all(self) -> list[Environment]:
        """The default one first, the others by name."""
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM environments ORDER BY is_default DESC, name")  # noqa: S608
        return [Environment(row[0], row[1], row[2], bool(row[3])) for row in rows]

    async def create(self, name: str, web_suffix: str) -> bool:
        """False where the name is taken."""
        try:
            await self._database.execute(
                "INSERT INTO environments (environment_id, name, web_suffix, created_at) VALUES (?, ?, ?, ?)",
                (new_id("en"), name, web_suffix, time.time()),
            )
        except sqlite3.IntegrityError:
            return False
        return True

    async def update(self, environment_id: str, name: str, web_suffix: str) -> bool:
        """False where the name is taken."""
        try:
            await self._database.execute(
                "UPDATE environments SET name = ?, web_suffix = ? WHERE environment_id = ?",
                (name, web_suffix, environment_id),
            )
        except sqlite3.IntegrityError:
            return False
        return True

    async def delete(self, environment_id: str) -> None:
        """With its secrets. Its apps must have been stopped."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM secrets WHERE environment_id = ?", (environment_id,))
            connection.execute("DELETE FROM environments WHERE environment_id = ?", (environment_id,))

        await self._database.write(work)
