"""Dicts and queues as objects: their names, and until when an ephemeral one is kept."""

from __future__ import annotations

import sqlite3
import time
from typing import NamedTuple

from intermodal.server.ids import new_id
from intermodal.server.store.database import Database

PREFIXES = {"dict": "di", "queue": "qu"}
_COLUMNS = "number, object_id, kind, environment_id, name, app_id, created_at, expires_at"


class ObjectRow(NamedTuple):
    number: int
    object_id: str
    kind: str
    environment_id: str
    name: str  # "" for an ephemeral one
    app_id: str
    created_at: float
    expires_at: float  # 0.0 for a named one


class ObjectStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, kind: str, environment_id: str, name: str) -> ObjectRow:
        """The named one, made where there is none."""

        def work(connection: sqlite3.Connection) -> ObjectRow:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM objects WHERE kind = ? AND environment_id = ? AND name = ? AND name != ''",  # noqa: S608
                (kind, environment_id, name),
            ).fetchone()
            return ObjectRow(*row) if row is not None else _insert(connection, kind, environment_id, name, "", 0.0)

        return await self._database.write(work)

    async def ephemeral(self, kind: str, environment_id: str, app_id: str, expires_at: float) -> ObjectRow:
        """A new one without a name."""
        return await self._database.write(
            lambda connection: _insert(connection, kind, environment_id, "", app_id, expires_at)
        )

    async def by_name(self, kind: str, environment_id: str, name: str) -> ObjectRow | None:
        row = await self._database.row(
            f"SELECT {_COLUMNS} FROM objects WHERE kind = ? AND environment_id = ? AND name = ? AND name != ''",  # noqa: S608
            (kind, environment_id, name),
        )
        return None if row is None else ObjectRow(*row)

    async def get(self, object_id: str) -> ObjectRow | None:
        row = await self._database.row(f"SELECT {_COLUMNS} FROM objects WHERE object_id = ?", (object_id,))  # noqa: S608
        return None if row is None else ObjectRow(*row)

    async def named(self, kind: str, environment_id: str) -> list[ObjectRow]:
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM objects WHERE kind = ? AND environment_id = ? AND name != '' ORDER BY name",  # noqa: S608
            (kind, environment_id),
        )
        return [ObjectRow(*row) for row in rows]

    async def of_environment(self, environment_id: str) -> list[ObjectRow]:
        """Named and ephemeral ones."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM objects WHERE environment_id = ?",  # noqa: S608
            (environment_id,),
        )
        return [ObjectRow(*row) for row in rows]

    async def ephemeral_ones(self) -> list[ObjectRow]:
        rows = await self._database.rows(f"SELECT {_COLUMNS} FROM objects WHERE name = ''")  # noqa: S608
        return [ObjectRow(*row) for row in rows]

    async def keep(self, object_id: str, expires_at: float) -> bool:
        """An ephemeral one is kept longer; False where there is none."""
        changed = await self._database.execute(
            "UPDATE objects SET expires_at = ? WHERE object_id = ? AND name = ''", (expires_at, object_id)
        )
        return changed > 0

    async def delete(self, number: int) -> bool:
        """The object itself: what is in it is deleted afterwards, in pieces. False where it was gone."""
        return await self._database.execute("DELETE FROM objects WHERE number = ?", (number,)) > 0


def _insert(
    connection: sqlite3.Connection, kind: str, environment_id: str, name: str, app_id: str, expires_at: float
) -> ObjectRow:
    object_id, now = new_id(PREFIXES[kind]), time.time()
    cursor = connection.execute(
        "INSERT INTO objects (object_id, kind, environment_id, name, app_id, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (object_id, kind, environment_id, name, app_id, now, expires_at),
    )
    return ObjectRow(cursor.lastrowid or 0, object_id, kind, environment_id, name, app_id, now, expires_at)
