"""The schema as numbered SQL files, applied in order; `PRAGMA user_version` says how far a database is.

A released file is never edited: databases in the field have run it. `Refused` says why a database
cannot be opened and what to do.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

APPLICATION_ID = 0x494D4F44  # "IMOD": tells our databases from others
FOLDER = Path(__file__).parent
VOLUMES = FOLDER / "volumes"  # of the database of volumes


class Refused(Exception):
    """The state directory cannot be used; the text says why and what to do next."""


def known(folder: Path = FOLDER) -> list[tuple[int, Path]]:
    """(number, file) of all migrations of one database, in order."""
    return sorted((int(path.name[:4]), path) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def migrate(connection: sqlite3.Connection, where: Path, migrations: list[tuple[int, Path]] | None = None) -> int:
    """Bring the database up to date; its version. Each migration takes effect as a whole or not at all."""
    steps = known() if migrations is None else migrations
    version = check(connection, where, steps[-1][0])
    for number, path in steps:
        if number <= version:
            continue
        script = path.read_text()
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise
        version = number
    return version


def check(connection: sqlite3.Connection, where: Path, newest: int) -> int:
    """The version of a database that is ours or empty. Raises Refused for any other."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (tables or version or application):
        raise Refused(
            f"{where} is the database of another program: set INTERMODAL_HOME to a directory that Intermodal may use"
        )
    if version > newest:
        raise Refused(
            f"{where} was written by a newer Intermodal (schema {version}, this one knows {newest}): "
            "install that version again, or set INTERMODAL_HOME to a new directory"
        )
    return version
