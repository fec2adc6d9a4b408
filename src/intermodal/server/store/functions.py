"""Functions as rows: the spec as JSON, the code that it carries apart and once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from intermodal.server.store.database import Database
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.function import FunctionSpec, VolumeMount

_COLUMNS = (
    "f.function_id, f.app_id, f.name, f.spec, coalesce(c.content, x''), f.version, f.active, f.base_id, f.variant, "
    "f.parameters"
)
_FROM = "FROM functions f LEFT JOIN function_code c ON c.hash = f.code_hash"


class FunctionRow(NamedTuple):
    """A function, or (with a `base_id`) a variant of one."""

    function_id: str
    app_id: str
    name: str
    spec: FunctionSpec
    version: int
    active: bool
    base_id: str
    variant: dict[str, Any]
    parameters: bytes


class FunctionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, function_id: str) -> FunctionRow | None:
        row = await self._database.row(f"SELECT {_COLUMNS} {_FROM} WHERE f.function_id = ?", (function_id,))
        return None if row is None else _function(row)

    async def of_app(self, app_id: str, active: bool = True) -> list[FunctionRow]:
        """Functions and variants of an app, in the order in which they came."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} {_FROM} WHERE f.app_id = ? AND f.active >= ? ORDER BY f.base_id != '', f.name",
            (app_id, int(active)),
        )
        return [_function(row) for row in rows]

    async def by_name(self, app_id: str, name: str) -> FunctionRow | None:
        """An active function of the app."""
        row = await self._database.row(
            f"SELECT {_COLUMNS} {_FROM} WHERE f.app_id = ? AND f.name = ? AND f.base_id = '' AND f.active",
            (app_id, name),
        )
        return None if row is None else _function(row)

    async def put(self, rows: Sequence[FunctionRow]) -> None:
        await self._database.write(lambda connection: put_functions(connection, rows))

    async def secrets_in_use(self) -> set[str]:
        """Ids of secrets that an active function names, for itself or for a bucket that it mounts."""
        rows = await self._database.rows(
            "SELECT DISTINCT j.value FROM functions f, json_each(f.spec, '$[' || ? || ']') j WHERE f.active UNION "
            "SELECT DISTINCT json_extract(j.value, '$[' || ? || ']') FROM functions f, "
            "json_each(f.spec, '$[' || ? || ']') j WHERE f.active",
            (
                FunctionSpec.__fields__.index("secret_ids"),
                VolumeMount.__fields__.index("object_id"),
                FunctionSpec.__fields__.index("volumes"),
            ),
        )
        return {row[0] for row in rows}

    async def images_in_use(self) -> set[str]:
        """Ids of images that an active function has."""
        rows = await self._database.rows(
            "SELECT DISTINCT json_extract(spec, '$[' || ? || ']') FROM functions WHERE active",
            (FunctionSpec.__fields__.index("image_id"),),
        )
        return {row[0] for row in rows}


def put_functions(connection: sqlite3.Connection, rows: Sequence[FunctionRow]) -> None:
    """Insert or replace functions; part of a larger transaction."""
    now = time.time()
    for row in rows:
        spec, code_hash = keep_spec(connection, row.spec)
        connection.execute(
            "INSERT INTO functions (function_id, app_id, name, spec, code_hash, version, active, base_id, variant, "
            "parameters, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (function_id) DO UPDATE SET spec = excluded.spec, code_hash = excluded.code_hash, "
            "version = excluded.version, active = excluded.active, updated_at = excluded.updated_at",
            (
                row.function_id, row.app_id, row.name, spec, code_hash, row.version, int(row.active), row.base_id,
                json.dumps(row.variant) if row.variant else "", row.parameters, now,
            ),
        )  # fmt: skip


def keep_spec(connection: sqlite3.Connection, spec: FunctionSpec) -> tuple[str, str]:
    """The spec as JSON and the hash of its code, which is kept where it was not yet."""
    code_hash = ""
    code = spec.serialized
    if code:
        code_hash = hashlib.sha256(code).hexdigest()
        connection.execute("INSERT OR IGNORE INTO function_code (hash, content) VALUES (?, ?)", (code_hash, code))
    spec.serialized = b""
    try:
        return json.dumps(to_json(spec), separators=(",", ":")), code_hash
    finally:
        spec.serialized = code


def read_spec(text: str, code: bytes) -> FunctionSpec:
    """The spec that `keep_spec` has kept."""
    spec: FunctionSpec = from_json(FunctionSpec, json.loads(text))
    spec.serialized = code
    return spec


def _function(row: Any) -> FunctionRow:
    return FunctionRow(
        row[0], row[1], row[2], read_spec(row[3], row[4]), row[5], bool(row[6]), row[7],
        json.loads(row[8]) if row[8] else {}, row[9],
    )  # fmt: skip
