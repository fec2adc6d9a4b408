"""Schedules that are in force, and when each is due."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from intermodal.server.store.database import Database


class ScheduleRow(NamedTuple):
    function_id: str
    app_id: str
    spec: dict[str, Any]  # FunctionSpec.schedule
    base: float  # what a period counts from: seconds since the epoch
    due: float  # the next run


class ScheduleStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[ScheduleRow]:
        rows = await self._database.rows("SELECT function_id, app_id, spec, base, due FROM schedules")
        return [ScheduleRow(row[0], row[1], json.loads(row[2]), row[3], row[4]) for row in rows]

    async def replace(self, app_id: str, rows: list[ScheduleRow]) -> None:
        """All schedules of an app."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM schedules WHERE app_id = ?", (app_id,))
            connection.executemany(
                "INSERT INTO schedules (function_id, app_id, spec, base, due) VALUES (?, ?, ?, ?, ?)",
                [(row.function_id, row.app_id, json.dumps(row.spec), row.base, row.due) for row in rows],
            )

        await self._database.write(work)

    async def due(self, row: ScheduleRow) -> None:
        """When it is due next, and what its period counts from."""
        await self._database.execute(
            "UPDATE schedules SET base = ?, due = ? WHERE function_id = ?", (row.base, row.due, row.function_id)
        )
