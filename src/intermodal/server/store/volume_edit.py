"""One new version of a volume in the making: every change of the tree keeps what it replaced.

All of it happens inside one transaction of the store, so a version is there wholly or not at all.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple

from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, MAX_INODES, REMOVED, Entry

COLUMNS = "kind, mode, uid, gid, mtime, size, content"
Row = tuple[int, int, int, int, int, int, bytes]  # COLUMNS
NOTHING: Row = (0, 0, 0, 0, 0, 0, b"")


class Staged(NamedTuple):
    """Entries that are laid out already; see `volume_bulk`."""

    table: str


def split(path: str) -> tuple[bytes, bytes]:
    """Parent and name, as the tables have them."""
    parent, _, name = os.fsencode(path).rpartition(b"/")
    return parent, name


def entry_of(parent: bytes, name: bytes, row: Row) -> Entry:
    """A row of the tables as an entry."""
    path = os.fsdecode(parent + b"/" + name if parent else name)
    kind, mode, uid, gid, mtime, size, content = row
    return Entry(path, kind, mode, uid, gid, mtime, size, os.fsdecode(content))


class VolumeEdit:
    """`edit.put(…)`, `edit.remove(…)`, …, then `edit.finish(reason)`."""

    def __init__(self, connection: sqlite3.Connection, volume_id: str) -> None:
        """Fault: not-found."""
        found = connection.execute(
            "SELECT number, version, inodes, bytes, name FROM volumes WHERE volume_id = ?", (volume_id,)
        ).fetchone()
        if found is None:
            raise Fault(Code.NOT_FOUND, f"the volume {volume_id} does not exist any more: it was deleted")
        self.number, self.base, self._inodes, self._bytes, self.name = found
        self.version = self.base + 1
        self.connection = connection
        self._changes = 0
        self._superseded = 0
        self._known_parents: set[bytes] = {b""}

    # -- looking
    def get(self, path: str) -> Entry | None:
        """What is at the path now."""
        if not path:
            return Entry("", DIRECTORY, 0o755)
        parent, name = split(path)
        row = self.row(parent, name)
        return None if row is None else entry_of(parent, name, row)

    def below(self, path: str) -> list[Entry]:
        """All that is below a directory."""
        return [entry_of(parent, name, row) for parent, name, row in self._below(os.fsencode(path))]

    def row(self, parent: bytes, name: bytes) -> Row | None:
        """What is there now."""
        row: Row | None = self.connection.execute(
            f"SELECT {COLUMNS} FROM volume_files WHERE volume = ? AND parent = ? AND name = ?",  # noqa: S608
            (self.number, parent, name),
        ).fetchone()
        return row

    def _below(self, path: bytes) -> list[tuple[bytes, bytes, Row]]:
        select = f"SELECT parent, name, {COLUMNS} FROM volume_files WHERE volume = ?"  # noqa: S608
        if path:  # "/" + 1 is "0": the range holds whatever begins with the path and a slash
            rows = self.connection.execute(
                f"{select} AND (parent = ? OR parent > ? AND parent < ?)",
                (self.number, path, path + b"/", path + b"0"),
            ).fetchall()
        else:
            rows = self.connection.execute(select, (self.number,)).fetchall()
        return [(row[0], row[1], row[2:]) for row in rows]

    # -- changing
    def apply(self, changes: Iterable[Entry]) -> None:
        """What a container has changed, in this order. Whoever comes last wins, path by path."""
        from intermodal.server.store import volume_bulk  # it is made of edits

        self.apply_groups(volume_bulk.groups(changes))

    def apply_groups(self, groups: Iterable[list[Entry] | Staged]) -> None:
        """As `apply`; those of a group all put something, or all take something away."""
        for group in groups:
            if isinstance(group, Staged) or group[0].kind not in (REMOVED, CLEARED):
                self.put_all(group)
                continue
            for entry in group:
                if entry.kind == REMOVED:
                    self.remove(entry.path)
                else:
                    self.clear(entry.path)

    def put_all(self, entries: list[Entry] | Staged) -> None:
        """Each at its path."""
        from intermodal.server.store import volume_bulk  # it is made of edits

        if isinstance(entries, Staged) or len(entries) >= volume_bulk.WORTH_IT:
            entries = volume_bulk.put_all(self, entries)
        for entry in entries:
            self.put(entry)

    def count(self, changes: int, inodes: int, size: int, superseded: int) -> None:
        """What was changed by other means."""
        self._changes += changes
        self._inodes += inodes
        self._bytes += size
        self._superseded += superseded

    def put(self, entry: Entry) -> None:
        """This entry at its path, whatever was there; missing parents are made."""
        if not entry.path:
            return
        parent, name = split(entry.path)
        self.make_parents(parent, entry.mtime)
        row: Row = (*entry[1:7], os.fsencode(entry.content))
        old = self.row(parent, name)
        if old == row:
            return
        if old is not None and old[0] == DIRECTORY and entry.kind != DIRECTORY:
            self.clear(entry.path)
        self._write(parent, name, row, old)

    def remove(self, path: str) -> bool:
        """Nothing at the path, nor below it; whether there was something."""
        parent, name = split(path)
        old = self.row(parent, name)
        if old is None:
            return False
        if old[0] == DIRECTORY:
            self.clear(path)
        self._write(parent, name, None, old)
        return True

    def clear(self, path: str) -> None:
        """Nothing below the directory."""
        for parent, name, row in self._below(os.fsencode(path)):
            self._known_parents.discard(parent)
            self._write(parent, name, None, row)

    def make_parents(self, path: bytes, mtime: int) -> None:
        """The directory, and those above it."""
        new = []
        while path not in self._known_parents:
            new.append(path)
            path = path.rpartition(b"/")[0]
        for path in reversed(new):
            parent, _, name = path.rpartition(b"/")
            old = self.row(parent, name)
            if old is None or old[0] != DIRECTORY:
                self._write(parent, name, (DIRECTORY, 0o755, 0, 0, mtime, 0, b""), old)
            self._known_parents.add(path)

    def _write(self, parent: bytes, name: bytes, row: Row | None, old: Row | None) -> None:
        key = (self.number, parent, name)
        if row is None:
            self.connection.execute("DELETE FROM volume_files WHERE volume = ? AND parent = ? AND name = ?", key)
            self._known_parents.discard(parent + b"/" + name if parent else name)
        else:
            self.connection.execute(
                f"INSERT OR REPLACE INTO volume_files (volume, parent, name, {COLUMNS}) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, *row),
            )
        # The first change of a path within a version is the one that knows what was there before.
        kept = self.connection.execute(
            f"INSERT OR IGNORE INTO volume_changes (volume, version, parent, name, {COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.number, self.version, parent, name, *(old or NOTHING)),
        ).rowcount
        self._changes += kept
        self._inodes += (row is not None) - (old is not None)
        self._bytes += (row[5] if row is not None else 0) - (old[5] if old is not None else 0)
        if kept and old is not None and old[0] == FILE:
            self._superseded += old[5]

    # -- the end
    def made_by(self, token: str) -> int:
        """The version that this upload has made before, 0 for none."""
        found = self.connection.execute(
            "SELECT version FROM volume_versions WHERE volume = ? AND token = ?", (self.number, token)
        ).fetchone()
        return int(found[0]) if found is not None else 0

    def finish(self, reason: str, token: str = "") -> int:
        """The number of the newest version now: a new one where anything changed. Fault: exhausted (inodes)."""
        if not self._changes:
            return int(self.base)
        if self._inodes > MAX_INODES:
            raise Fault(
                Code.EXHAUSTED,
                f"No space left on device (ENOSPC): volume {self.name!r} would have {self._inodes:,} files, "
                f"directories and links; a volume holds {MAX_INODES:,}. Remove some, or pack them into archives",
            )
        now = time.time()
        self.connection.execute(
            "INSERT INTO volume_versions (volume, version, created_at, reason, token, changes, inodes, bytes, "
            "superseded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.number, self.version, now, reason, token, self._changes, self._inodes, self._bytes, self._superseded),
        )
        self.connection.execute(
            "UPDATE volumes SET version = ?, inodes = ?, bytes = ?, used_at = ? WHERE number = ?",
            (self.version, self._inodes, self._bytes, now, self.number),
        )
        return int(self.version)
