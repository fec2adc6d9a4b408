"""Volumes moved from the store's database to one of their own, once, whatever the moment at which a server dies.

A version of a large volume is a transaction of seconds. In the store's database all other writers would wait for it:
calls, results, dicts.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from intermodal.server.store.database import Database

TABLES = ("volumes", "volume_files", "volume_changes", "volume_versions")
_MOVED = "moved_from_store"


async def move(store: Database, volumes: Database) -> None:
    """Copy what the store's database has, then drop it there."""
    if not await store.row("SELECT 1 FROM sqlite_schema WHERE name = 'volumes'"):
        return
    if not await volumes.row("SELECT 1 FROM meta WHERE key = ?", (_MOVED,)):
        await volumes.write(lambda connection: _copy(connection, store.path))
    await store.write(_drop)


def _copy(connection: sqlite3.Connection, store: Path) -> None:
    """In one transaction, with a note that it is done."""
    other = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        other.execute("BEGIN")
        for table in TABLES:
            rows = other.execute(f"SELECT * FROM {table}")  # noqa: S608
            marks = ", ".join("?" * len(rows.description))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608
    finally:
        other.close()
    connection.execute("INSERT INTO meta (key, value) VALUES (?, 'true')", (_MOVED,))


def _drop(connection: sqlite3.Connection) -> None:
    for table in TABLES:
        connection.execute(f"DROP TABLE {table}")
