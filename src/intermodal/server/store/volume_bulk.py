"""Many entries of one new version at once: a handful of statements over all of them instead of several for each.

What is simple goes this way: new files and directories, and files in the place of files, below directories. What is
left is given back, to be put one by one, in the order of its paths: conflicts are found and said there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable

from intermodal.server.store.volume_edit import COLUMNS, VolumeEdit, entry_of, split
from modal._protocol.messages.volume import DIRECTORY, FILE, Entry

WORTH_IT = 200  # entries: below that, one by one is as fast
_NAMES = COLUMNS.split(", ")
_NOTHING = "x''"
_TABLE = f"""CREATE TEMP TABLE IF NOT EXISTS incoming (
    parent BLOB NOT NULL, name BLOB NOT NULL, {", ".join(f"{name} NOT NULL" for name in _NAMES)},
    PRIMARY KEY (parent, name)) WITHOUT ROWID"""
_JOINED = "temp.incoming i LEFT JOIN volume_files f ON f.volume = ?1 AND f.parent = i.parent AND f.name = i.name"
_OLD = ", ".join(f"coalesce(f.{name}, {_NOTHING if name == 'content' else 0})" for name in _NAMES)
_SAME = " AND ".join(f"f.{name} = i.{name}" for name in _NAMES)


def put_all(edit: VolumeEdit, entries: Iterable[Entry], replace: bool = True) -> list[Entry]:
    """Put the entries at their paths, as `edit.put` does; those that are left. `replace`: also where files are."""
    connection = edit.connection
    connection.execute(_TABLE)
    connection.execute("DELETE FROM temp.incoming")
    marks = ", ".join("?" * (2 + len(_NAMES)))
    connection.executemany(
        f"INSERT OR REPLACE INTO temp.incoming VALUES ({marks})",  # noqa: S608
        ((*split(entry.path), *entry[1:7], os.fsencode(entry.content)) for entry in entries if entry.path),
    )
    left = _take_out(
        connection,
        f"SELECT i.* FROM {_JOINED} WHERE f.kind IS NOT NULL AND (f.kind = ?2 OR i.kind = ?2 OR NOT ?3)",  # noqa: S608
        (edit.number, DIRECTORY, replace),
    )
    for parent in _Ground(edit).obstructed():
        left += _take_out(connection, "SELECT * FROM temp.incoming WHERE parent = ?", (parent,))
    _apply(edit, connection)
    connection.execute("DELETE FROM temp.incoming")
    return sorted(left)


def _take_out(connection: sqlite3.Connection, select: str, parameters: tuple[object, ...]) -> list[Entry]:
    rows = connection.execute(select, parameters).fetchall()
    connection.executemany("DELETE FROM temp.incoming WHERE parent = ? AND name = ?", [row[:2] for row in rows])
    return [entry_of(row[0], row[1], row[2:]) for row in rows]


class _Ground:
    """Whether the entries' directories are there, come with them, or can be made: else they are obstructed."""

    def __init__(self, edit: VolumeEdit) -> None:
        self._edit = edit
        self._clear: dict[bytes, bool] = {b"": True}

    def obstructed(self) -> list[bytes]:
        """The directories that cannot be; missing ones are made."""
        parents = self._edit.connection.execute(
            "SELECT parent, max(mtime) FROM temp.incoming GROUP BY parent ORDER BY parent"
        ).fetchall()
        bad = []
        for parent, mtime in parents:
            if not self._is_clear(parent):
                bad.append(parent)
            elif self._incoming(parent) != DIRECTORY:
                self._edit.make_parents(parent, mtime)
        return bad

    def _is_clear(self, path: bytes) -> bool:
        known = self._clear.get(path)
        if known is None:
            above, _, name = path.rpartition(b"/")
            row = self._edit.row(above, name)
            kinds = {DIRECTORY, self._incoming(path) or DIRECTORY, row[0] if row is not None else DIRECTORY}
            known = self._clear[path] = kinds == {DIRECTORY} and self._is_clear(above)
        return known

    def _incoming(self, path: bytes) -> int:
        above, _, name = path.rpartition(b"/")
        found = self._edit.connection.execute(
            "SELECT kind FROM temp.incoming WHERE parent = ? AND name = ?", (above, name)
        ).fetchone()
        return int(found[0]) if found is not None else 0


def _apply(edit: VolumeEdit, connection: sqlite3.Connection) -> None:
    """What is left of the incoming entries: nothing or a file is in the place of each."""
    number, version = edit.number, edit.version
    connection.execute(
        f"DELETE FROM temp.incoming WHERE (parent, name) IN (SELECT i.parent, i.name FROM {_JOINED} WHERE {_SAME})",  # noqa: S608
        (number,),
    )
    inodes, size = connection.execute(
        f"SELECT count(*) - count(f.kind), coalesce(sum(i.size), 0) - coalesce(sum(f.size), 0) FROM {_JOINED}",  # noqa: S608
        (number,),
    ).fetchone()
    superseded = connection.execute(
        f"SELECT coalesce(sum(f.size), 0) FROM {_JOINED} WHERE f.kind = ?2 AND NOT EXISTS (SELECT 1 "  # noqa: S608
        "FROM volume_changes c WHERE c.volume = ?1 AND c.version = ?3 AND c.parent = i.parent AND c.name = i.name)",
        (number, FILE, version),
    ).fetchone()[0]
    kept = connection.execute(
        f"INSERT OR IGNORE INTO volume_changes (volume, version, parent, name, {COLUMNS}) "  # noqa: S608
        f"SELECT ?1, ?2, i.parent, i.name, {_OLD} FROM {_JOINED} ORDER BY i.parent, i.name",
        (number, version),
    ).rowcount
    connection.execute(
        f"INSERT OR REPLACE INTO volume_files (volume, parent, name, {COLUMNS}) "  # noqa: S608
        f"SELECT ?, parent, name, {COLUMNS} FROM temp.incoming ORDER BY parent, name",
        (number,),
    )
    edit.count(kept, inodes, size, superseded)
