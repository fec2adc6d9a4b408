"""Apps, their versions, and what each version consisted of."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from intermodal.server.store.database import Database
from intermodal.server.store.functions import FunctionRow, keep_spec, put_functions, read_spec
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import FunctionSpec

_COLUMNS = "app_id, environment_id, name, description, state, detached, version, created_at, stopped_at, stop_reason"


class AppRow(NamedTuple):
    app_id: str
    environment_id: str
    name: str
    description: str
    state: str  # AppState
    detached: bool
    version: int  # of the deployment; 0: never deployed
    created_at: float
    stopped_at: float
    stop_reason: str  # "" when it was stopped on request

    @property
    def live(self) -> bool:
        return self.state not in (AppState.STOPPED, AppState.STOPPING)


class VersionRow(NamedTuple):
    version: int
    deployed_at: float
    deployed_by: str
    software: str
    tag: str
    commit: dict[str, Any]
    rolled_back_from: int


class AppStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, app: AppRow) -> None:
        """Raises sqlite3.IntegrityError where a deployed app of that name is there already."""
        await self._database.write(lambda connection: _put_app(connection, app))

    async def get(self, app_id: str) -> AppRow | None:
        row = await self._database.row(f"SELECT {_COLUMNS} FROM apps WHERE app_id = ?", (app_id,))  # noqa: S608
        return None if row is None else _app(row)

    async def deployed(self, environment_id: str, name: str) -> AppRow | None:
        row = await self._database.row(
            f"SELECT {_COLUMNS} FROM apps WHERE environment_id = ? AND name = ? AND state = ?",  # noqa: S608
            (environment_id, name, AppState.DEPLOYED),
        )
        return None if row is None else _app(row)

    async def listed(self, environment_id: str, stopped_since: float) -> list[AppRow]:
        """Newest first."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM apps WHERE environment_id = ? AND (stopped_at = 0 OR stopped_at >= ?) "  # noqa: S608
            "ORDER BY created_at DESC",
            (environment_id, stopped_since),
        )
        return [_app(row) for row in rows]

    async def unfinished(self) -> list[AppRow]:
        """All apps that are not stopped."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM apps WHERE state != ? ORDER BY created_at",  # noqa: S608
            (AppState.STOPPED,),
        )
        return [_app(row) for row in rows]

    async def set_state(
        self, app_id: str, state: str, *, detached: bool | None = None, stopped_at: float = 0.0, reason: str = ""
    ) -> None:
        """A stopped app's functions take no more calls."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE apps SET state = ?, detached = coalesce(?, detached), stopped_at = ?, stop_reason = ? "
                "WHERE app_id = ?",
                (state, detached, stopped_at, reason, app_id),
            )
            if state == AppState.STOPPED:
                connection.execute("UPDATE functions SET active = 0 WHERE app_id = ?", (app_id,))

        await self._database.write(work)

    async def publish(
        self, app: AppRow, functions: Sequence[FunctionRow], removed: Sequence[str], version: VersionRow | None
    ) -> None:
        """The app with these functions, all or nothing; a version when it is a deployment."""

        def work(connection: sqlite3.Connection) -> None:
            _put_app(connection, app)
            connection.executemany(
                "UPDATE functions SET active = 0 WHERE function_id = ?", [(function_id,) for function_id in removed]
            )
            put_functions(connection, functions)
            if version is not None:
                _add_version(connection, app.app_id, version, functions)

        await self._database.write(work)

    async def versions(self, app_id: str) -> list[VersionRow]:
        """Newest first."""
        rows = await self._database.rows(
            "SELECT version, deployed_at, deployed_by, software, tag, commit_info, rolled_back_from FROM app_versions "
            "WHERE app_id = ? ORDER BY version DESC",
            (app_id,),
        )
        return [VersionRow(*(*row[:5], json.loads(row[5]), row[6])) for row in rows]

    async def version_functions(self, app_id: str, version: int) -> list[FunctionSpec]:
        """What a version consisted of."""
        rows = await self._database.rows(
            "SELECT v.spec, coalesce(c.content, x'') FROM app_version_functions v "
            "LEFT JOIN function_code c ON c.hash = v.code_hash WHERE v.app_id = ? AND v.version = ?",
            (app_id, version),
        )
        return [read_spec(text, code) for text, code in rows]

    async def forget(self, stopped_before: float) -> list[str]:
        """Delete apps that were stopped before that time, with all that is theirs; their ids."""

        def work(connection: sqlite3.Connection) -> list[str]:
            gone = [
                row[0]
                for row in connection.execute(
                    "SELECT app_id FROM apps WHERE state = ? AND stopped_at < ?", (AppState.STOPPED, stopped_before)
                )
            ]
            for table in ("app_version_functions", "app_versions", "functions", "containers", "apps"):
                connection.executemany(f"DELETE FROM {table} WHERE app_id = ?", [(app_id,) for app_id in gone])  # noqa: S608
            connection.execute(
                "DELETE FROM function_code WHERE hash NOT IN (SELECT code_hash FROM functions) "
                "AND hash NOT IN (SELECT code_hash FROM app_version_functions)"
            )
            return gone

        return await self._database.write(work)


def _put_app(connection: sqlite3.Connection, app: AppRow) -> None:
    connection.execute(
        f"INSERT INTO apps ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (app_id) DO UPDATE SET "  # noqa: S608
        "name = excluded.name, description = excluded.description, state = excluded.state, "
        "detached = excluded.detached, version = excluded.version",
        app,
    )


def _add_version(
    connection: sqlite3.Connection, app_id: str, version: VersionRow, functions: Sequence[FunctionRow]
) -> None:
    connection.execute(
        "INSERT INTO app_versions (app_id, version, deployed_at, deployed_by, software, tag, commit_info, "
        "rolled_back_from) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (app_id, *version[:5], json.dumps(version.commit), version.rolled_back_from),
    )
    for row in functions:
        if row.base_id:
            continue
        spec, code_hash = keep_spec(connection, row.spec)
        connection.execute(
            "INSERT INTO app_version_functions (app_id, version, function_id, spec, code_hash) VALUES (?, ?, ?, ?, ?)",
            (app_id, version.version, row.function_id, spec, code_hash),
        )


def _app(row: Any) -> AppRow:
    return AppRow(*(*row[:5], bool(row[5]), *row[6:]))


def new_app(
    app_id: str, environment_id: str, name: str, description: str, state: str, detached: bool = False
) -> AppRow:
    """An app that begins to exist now."""
    return AppRow(app_id, environment_id, name, description, state, detached, 0, time.time(), 0.0, "")
