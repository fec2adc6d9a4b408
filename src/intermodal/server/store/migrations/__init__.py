"""The schema as numbered SQL files, applied in order; `PRAGMA user_version` says how far a database is.

A released file is never edited: databases in the field have run it. `Refused` says why a database
cannot be opened and what to do.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from intermodal.server.store.migrations import applied

log = logging.getLogger("intermodal.store")

APPLICATION_ID = 0x494D4F44  # "IMOD": tells our databases from others
FOLDER = Path(__file__).parent
VOLUMES = FOLDER / "volumes"  # of the database of volumes

WAYS_OUT = "install that version again, restore a backup, or set INTERMODAL_HOME to a new directory"


class Refused(Exception):
    """The state directory cannot be used; the text says why and what to do next."""


def known(folder: Path = FOLDER) -> list[tuple[int, Path]]:
    """(number, file) of all migrations of one database, in order."""
    return sorted((int(path.name[:4]), path) for path in folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))


def migrate(connection: sqlite3.Connection, where: Path, migrations: list[tuple[int, Path]] | None = None) -> int:
    """Bring the database up to date; its version. Each migration takes effect as a whole or not at all.

    One that an unfinished build has left out is made up for. Raises Refused where the database has had others.
    """
    steps = known() if migrations is None else migrations
    version = check(connection, where, steps[-1][0])
    if version and applied.read(connection) is None:
        moved = applied.tables_of(known(VOLUMES)) if VOLUMES.is_dir() else set()
        applied.begin(connection, version, steps, moved)
    had = applied.read(connection) or {}
    _compare(where, had, dict(steps))
    for number, path in steps:
        if number in had:
            continue
        missed = number < version
        version = max(version, number)
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{path.read_text()}\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {version};\n{applied.noting(number, path)}\nCOMMIT;"
            )
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.rollback()
            if not missed:
                raise
            raise Refused(
                f"{where} lacks migration {path.name}, which an unfinished Intermodal has left out, and it cannot be "
                f"made up for ({error}): {WAYS_OUT}"
            ) from None
        if missed:
            log.warning("%s lacked migration %s: it was made up for", where, path.name)
    return version


def _compare(where: Path, had: dict[int, tuple[str, str]], steps: dict[int, Path]) -> None:
    """Raise Refused where the database has had migrations that are not, or are not the same, in this version."""
    for number, (name, digest) in sorted(had.items()):
        path = steps.get(number)
        if path is None:
            raise Refused(
                f"{where} has had migration {name}, which this Intermodal does not know (it is from an unfinished or "
                f"another version): {WAYS_OUT}"
            )
        if digest != applied.hash_of(path):
            raise Refused(
                f"{where} has had another form of migration {path.name} than this Intermodal has (from an unfinished "
                f"version): {WAYS_OUT}"
            )


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
