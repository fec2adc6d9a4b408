"""Many entries of one new version at once: a handful of statements over all of them instead of several for each.

What is simple goes this way: new files and directories, and files in the place of files, below directories. What is
left is given back, to be put one by one, in the order of its paths: conflicts are found and said there.

The entries are laid out in a temporary table first. That takes as long as the rest and needs no transaction of the
volumes' tables: `stage` does it in steps, between which other volumes' versions are made.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from intermodal.server.store.volume_edit import COLUMNS, Staged, VolumeEdit, entry_of, split
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, Entry

WORTH_IT = 200  # entries: below that, one by one is as fast
STEP = 5000  # entries that are laid out in one go
_NAMES = COLUMNS.split(", ")
_NOTHING = "x''"
_OLD = ", ".join(f"coalesce(f.{name}, {_NOTHING if name == 'content' else 0})" for name in _NAMES)
_SAME = " AND ".join(f"f.{name} = i.{name}" for name in _NAMES)
_numbers = itertools.count(1)

Row = tuple[Any, ...]
Step = Callable[[sqlite3.Connection], None]


def stage(entries: Sequence[Entry]) -> tuple[Staged, list[Step]]:
    """The name under which `put_all` finds them, and what has to be done before on the connection that writes.

    Whoever has begun with the steps calls `unstage`. Takes its time: call it in a thread.
    """
    staged = Staged(f"incoming_{next(_numbers)}")
    rows = _rows(entries)
    parts = [rows[at : at + STEP] for at in range(0, len(rows), STEP)]
    return staged, [partial(_create, staged), *[partial(_insert, staged, part) for part in parts]]


def unstage(connection: sqlite3.Connection, staged: Staged) -> None:
    """It is not needed any more."""
    connection.execute(f"DROP TABLE IF EXISTS temp.{staged.table}")


def groups(changes: Iterable[Entry]) -> list[list[Entry]]:
    """Changes in their order, those together that put something."""
    by_kind = itertools.groupby(changes, lambda entry: entry.kind not in (REMOVED, CLEARED))
    return [list(group) for _puts, group in by_kind]


def put_all(edit: VolumeEdit, entries: Sequence[Entry] | Staged, replace: bool = True) -> list[Entry]:
    """Put the entries at their paths, as `edit.put` does; those that are left. `replace`: also where files are."""
    connection = edit.connection
    if not isinstance(entries, Staged):
        staged = Staged("incoming_0")
        unstage(connection, staged)
        _create(staged, connection)
        _insert(staged, _rows(entries), connection)
        left = put_all(edit, staged, replace)
        unstage(connection, staged)
        return left
    table = f"temp.{entries.table}"
    left = _take_out(
        connection,
        table,
        f"SELECT i.* FROM {_joined(table)} WHERE f.kind IS NOT NULL AND (f.kind = ?2 OR i.kind = ?2 OR NOT ?3)",  # noqa: S608
        (edit.number, DIRECTORY, replace),
    )
    for parent in _Ground(edit, table).obstructed():
        left += _take_out(connection, table, f"SELECT * FROM {table} WHERE parent = ?", (parent,))  # noqa: S608
    _apply(edit, connection, table)
    return sorted(left)


def _rows(entries: Iterable[Entry]) -> list[Row]:
    return [(*split(entry.path), *entry[1:7], os.fsencode(entry.content)) for entry in entries if entry.path]


def _create(staged: Staged, connection: sqlite3.Connection) -> None:
    connection.execute(
        f"CREATE TEMP TABLE {staged.table} (parent BLOB NOT NULL, name BLOB NOT NULL, "
        f"{', '.join(f'{name} NOT NULL' for name in _NAMES)}, PRIMARY KEY (parent, name)) WITHOUT ROWID"
    )


def _insert(staged: Staged, rows: list[Row], connection: sqlite3.Connection) -> None:
    marks = ", ".join("?" * (2 + len(_NAMES)))
    connection.executemany(f"INSERT OR REPLACE INTO temp.{staged.table} VALUES ({marks})", rows)  # noqa: S608


def _joined(table: str) -> str:
    return f"{table} i LEFT JOIN volume_files f ON f.volume = ?1 AND f.parent = i.parent AND f.name = i.name"


def _take_out(connection: sqlite3.Connection, table: str, select: str, parameters: tuple[object, ...]) -> list[Entry]:
    rows = connection.execute(select, parameters).fetchall()
    connection.executemany(f"DELETE FROM {table} WHERE parent = ? AND name = ?", [row[:2] for row in rows])  # noqa: S608
    return [entry_of(row[0], row[1], row[2:]) for row in rows]


class _Ground:
    """Whether the entries' directories are there, come with them, or can be made: else they are obstructed."""

    def __init__(self, edit: VolumeEdit, table: str) -> None:
        self._edit = edit
        self._table = table
        self._clear: dict[bytes, bool] = {b"": True}

    def obstructed(self) -> list[bytes]:
        """The directories that cannot be; missing ones are made."""
        parents = self._edit.connection.execute(
            f"SELECT parent, max(mtime) FROM {self._table} GROUP BY parent ORDER BY parent"  # noqa: S608
        ).fetchall()
        bad = []
        for parent, mtime in parents:
            if not self._is_clear(parent):
                bad.append(parent)
            elif self._incoming(parent) != DIRECTORY:
                self._edit.make_parents(parent, mtime)
        return bad

    def _is_clear(self, path: bytes) -> bool:
        new = []
        while path not in self._clear:
            new.append(path)
            path = path.rpartition(b"/")[0]
        known = self._clear[path]
        for path in reversed(new):
            above, _, name = path.rpartition(b"/")
            row = self._edit.row(above, name)
            kinds = {DIRECTORY, self._incoming(path) or DIRECTORY, row[0] if row is not None else DIRECTORY}
            known = self._clear[path] = known and kinds == {DIRECTORY}
        return known

    def _incoming(self, path: bytes) -> int:
        above, _, name = path.rpartition(b"/")
        found = self._edit.connection.execute(
            f"SELECT kind FROM {self._table} WHERE parent = ? AND name = ?",  # noqa: S608
            (above, name),
        ).fetchone()
        return int(found[0]) if found is not None else 0


def _apply(edit: VolumeEdit, connection: sqlite3.Connection, table: str) -> None:
    """What is left of the incoming entries: nothing or a file is in the place of each."""
    number, version = edit.number, edit.version
    joined = _joined(table)
    connection.execute(
        f"DELETE FROM {table} WHERE (parent, name) IN (SELECT i.parent, i.name FROM {joined} WHERE {_SAME})",  # noqa: S608
        (number,),
    )
    inodes, size = connection.execute(
        f"SELECT count(*) - count(f.kind), coalesce(sum(i.size), 0) - coalesce(sum(f.size), 0) FROM {joined}",  # noqa: S608
        (number,),
    ).fetchone()
    superseded = connection.execute(
        f"SELECT coalesce(sum(f.size), 0) FROM {joined} WHERE f.kind = ?2 AND NOT EXISTS (SELECT 1 "  # noqa: S608
        "FROM volume_changes c WHERE c.volume = ?1 AND c.version = ?3 AND c.parent = i.parent AND c.name = i.name)",
        (number, FILE, version),
    ).fetchone()[0]
    kept = connection.execute(
        f"INSERT OR IGNORE INTO volume_changes (volume, version, parent, name, {COLUMNS}) "  # noqa: S608
        f"SELECT ?1, ?2, i.parent, i.name, {_OLD} FROM {joined} ORDER BY i.parent, i.name",
        (number, version),
    ).rowcount
    connection.execute(
        f"INSERT OR REPLACE INTO volume_files (volume, parent, name, {COLUMNS}) "  # noqa: S608
        f"SELECT ?, parent, name, {COLUMNS} FROM {table} ORDER BY parent, name",
        (number,),
    )
    edit.count(kept, inodes, size, superseded)
