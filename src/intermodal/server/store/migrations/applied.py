"""Which migrations a database has had, each with its name and a hash of its text.

The highest number alone does not tell: a build of an unfinished version may have had 19 before there was an 18.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

TABLE = (
    "CREATE TABLE IF NOT EXISTS applied_migrations "
    "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at REAL NOT NULL)"
)
Steps = list[tuple[int, Path]]


def hash_of(path: Path) -> str:
    """Of a migration's text."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(connection: sqlite3.Connection) -> dict[int, tuple[str, str]] | None:
    """Number to name and hash; None for a database from before there was a record."""
    try:
        rows = connection.execute("SELECT number, name, sha256 FROM applied_migrations").fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return None
    return {number: (name, digest) for number, name, digest in rows}


def noting(number: int, path: Path) -> str:
    """Statements that record one."""
    row = f"({number}, '{path.name}', '{hash_of(path)}', {time.time():.3f})"
    return f"{TABLE};\nINSERT INTO applied_migrations VALUES {row};"


def begin(connection: sqlite3.Connection, version: int, steps: Steps, elsewhere: Iterable[str]) -> None:
    """Begin the record of a database that has none: those up to its version whose tables and columns it has.

    `elsewhere`: names of tables that may have been moved to another database.
    """
    had = _shape(connection) if version else set()
    moved = set(elsewhere)
    scratch = sqlite3.connect(":memory:", isolation_level=None)
    notes = [f"{TABLE};"]
    before: set[tuple[str, str]] = set()
    made: dict[int, set[tuple[str, str]]] = {}
    for number, path in steps:
        if number > version:
            break
        scratch.executescript(path.read_text())
        shape = _shape(scratch)
        made[number] = shape - before
        before = shape
    scratch.close()
    for number, path in steps:
        if number in made and not {one for one in made[number] & before if one[0] not in moved} - had:
            notes.append(noting(number, path))
    connection.executescript("\n".join(["BEGIN IMMEDIATE;", *notes, "COMMIT;"]))


def tables_of(steps: Steps) -> set[str]:
    """Names of all tables that these migrations make."""
    scratch = sqlite3.connect(":memory:", isolation_level=None)
    for _number, path in steps:
        scratch.executescript(path.read_text())
    names = {table for table, _column in _shape(scratch)}
    scratch.close()
    return names


def _shape(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Every table with every column of it."""
    return set(
        connection.execute(
            "SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns "
            "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%'"
        )
    )
