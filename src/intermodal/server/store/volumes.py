"""Volumes in the database: their names, the newest tree, and what is needed to go back to older ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, TypeVar

from intermodal.server.store import volume_bulk
from intermodal.server.store.database import Database
from intermodal.server.store.volume_edit import COLUMNS, Staged, VolumeEdit, entry_of, split
from modal._protocol.errors import Fault
from modal._protocol.messages.volume import REMOVED, Entry, VolumeVersion

T = TypeVar("T")

EPHEMERAL_KEPT = 900.0  # seconds that an ephemeral volume lives on without a heartbeat (one every 300 s)
VERSIONS_KEPT = 100
SUPERSEDED_KEPT = 10 << 30  # bytes of replaced files, or as much as the volume holds if that is more
AGE_KEPT = 7 * 86400.0  # seconds
_INFO = "volume_id, environment_id, kind, name, format, version, inodes, bytes, created_at, used_at"


class VolumeRow(NamedTuple):
    volume_id: str
    environment_id: str
    kind: str
    name: str
    format: int
    version: int
    inodes: int
    bytes: int
    created_at: float
    used_at: float


class VolumeStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- names
    async def create(self, row: VolumeRow) -> None:
        """Raises sqlite3.IntegrityError where the name is taken."""
        marks = ", ".join("?" * len(row))
        await self._database.execute(f"INSERT INTO volumes ({_INFO}) VALUES ({marks})", row)  # noqa: S608

    async def by_name(self, environment_id: str, kind: str, name: str) -> VolumeRow | None:
        row = await self._database.row(
            f"SELECT {_INFO} FROM volumes WHERE environment_id = ? AND kind = ? AND name = ? AND name != ''",  # noqa: S608
            (environment_id, kind, name),
        )
        return None if row is None else VolumeRow(*row)

    async def get(self, volume_id: str) -> VolumeRow | None:
        row = await self._database.row(f"SELECT {_INFO} FROM volumes WHERE volume_id = ?", (volume_id,))  # noqa: S608
        return None if row is None else VolumeRow(*row)

    async def named(self, environment_id: str, kind: str) -> list[VolumeRow]:
        """Newest first."""
        rows = await self._database.rows(
            f"SELECT {_INFO} FROM volumes WHERE environment_id = ? AND kind = ? AND name != '' "  # noqa: S608
            "ORDER BY created_at DESC",
            (environment_id, kind),
        )
        return [VolumeRow(*row) for row in rows]

    async def rename(self, volume_id: str, name: str) -> None:
        """Raises sqlite3.IntegrityError where the name is taken."""
        await self._database.execute("UPDATE volumes SET name = ? WHERE volume_id = ?", (name, volume_id))

    async def used(self, volume_id: str) -> None:
        await self._database.execute("UPDATE volumes SET used_at = ? WHERE volume_id = ?", (time.time(), volume_id))

    async def delete(self, volume_ids: list[str]) -> None:
        """With all versions; the contents are collected later."""

        def work(connection: sqlite3.Connection) -> None:
            for volume_id in volume_ids:
                found = connection.execute("SELECT number FROM volumes WHERE volume_id = ?", (volume_id,)).fetchone()
                if found is not None:
                    for table in ("volume_files", "volume_changes", "volume_versions"):
                        connection.execute(f"DELETE FROM {table} WHERE volume = ?", found)  # noqa: S608
                    connection.execute("DELETE FROM volumes WHERE number = ?", found)

        await self._database.write(work)

    async def abandoned(self, environments: list[str]) -> list[VolumeRow]:
        """Ephemeral ones that nobody keeps alive, and those of environments that are gone."""
        rows = await self._database.rows(
            f"SELECT {_INFO} FROM volumes WHERE name = '' AND used_at < ? "  # noqa: S608
            "OR environment_id NOT IN (SELECT value FROM json_each(?))",
            (time.time() - EPHEMERAL_KEPT, json.dumps(environments)),
        )
        return [VolumeRow(*row) for row in rows]

    # -- the newest tree
    async def entry(self, volume_id: str, path: str) -> Entry | None:
        """What is at a path; a volume's root is not among them."""
        parent, name = split(path)
        row = await self._database.row(
            f"SELECT {_of('volume_files')} FROM volume_files JOIN volumes ON number = volume "  # noqa: S608
            "WHERE volume_id = ? AND parent = ? AND volume_files.name = ?",
            (volume_id, parent, name),
        )
        return None if row is None else entry_of(parent, name, row)

    async def children(self, volume_id: str, path: str, recursive: bool) -> list[Entry]:
        """What is in a directory, or below it, in the order of paths."""
        where = os.fsencode(path)
        select = (
            f"SELECT parent, volume_files.name, {_of('volume_files')} FROM volume_files "  # noqa: S608
            "JOIN volumes ON number = volume WHERE volume_id = ?"
        )
        if not recursive:
            rows = await self._database.rows(f"{select} AND parent = ? ORDER BY volume_files.name", (volume_id, where))
        elif where:
            rows = await self._database.rows(
                f"{select} AND (parent = ? OR parent > ? AND parent < ?)",
                (volume_id, where, where + b"/", where + b"0"),
            )
        else:
            rows = await self._database.rows(select, (volume_id,))
        entries = [entry_of(row[0], row[1], row[2:]) for row in rows]
        return sorted(entries) if recursive else entries

    async def changed(self, volume_id: str, since: int) -> tuple[int, int, list[Entry]]:
        """(newest version, base, what to do to the base to get it), parents first. The base is `since`, or 0 (an
        empty tree) where the history does not reach back to it."""

        def work(connection: sqlite3.Connection) -> tuple[int, int, list[Entry]]:
            connection.execute("BEGIN")
            try:
                return _changed(connection, volume_id, since)
            finally:
                connection.execute("ROLLBACK")

        return await self._database.read(work)

    # -- new versions
    @contextlib.asynccontextmanager
    async def staged(self, entries: list[Entry]) -> AsyncIterator[list[Entry] | Staged]:
        """Entries for an edit; of many the larger part of the work is done here, and holds up nobody's versions."""
        if len(entries) < volume_bulk.WORTH_IT:
            yield entries
            return
        found, steps = await asyncio.to_thread(volume_bulk.stage, entries)
        try:
            for step in steps:
                await self._database.write(step)
            yield found
        finally:
            with contextlib.suppress(Fault):  # the server is stopping
                self._database.write_soon(lambda connection: volume_bulk.unstage(connection, found))

    async def edit(self, volume_id: str, reason: str, work: Callable[[VolumeEdit], None], token: str = "") -> int:
        """Make one new version, durable when this returns; its number. Raises what `work` raises; Fault.

        What was done before with the same token is not done again.
        """

        def run(connection: sqlite3.Connection) -> int:
            edit = VolumeEdit(connection, volume_id)
            done = edit.made_by(token) if token else 0
            if done:
                return done
            work(edit)
            return edit.finish(reason, token)

        return await self._database.write(run)

    async def versions(self, volume_id: str) -> list[VolumeVersion]:
        """Newest first."""
        rows = await self._database.rows(
            "SELECT v.version, v.created_at, reason, changes, v.inodes, v.bytes FROM volume_versions v "
            "JOIN volumes ON number = volume WHERE volume_id = ? ORDER BY v.version DESC",
            (volume_id,),
        )
        return [VolumeVersion(*row) for row in rows]

    async def restore(self, volume_id: str, version: int) -> int:
        """Make an older version the newest one again. Raises LookupError where it is not kept."""

        def work(edit: VolumeEdit, connection: sqlite3.Connection) -> int:
            oldest = connection.execute(
                "SELECT min(version) FROM volume_versions WHERE volume = ?", (edit.number,)
            ).fetchone()[0]
            if oldest is None or not oldest <= version <= edit.base:
                raise LookupError(f"{oldest or 0} to {edit.base}")
            rows = connection.execute(
                f"SELECT parent, name, min(version), {COLUMNS} FROM volume_changes "  # noqa: S608
                "WHERE volume = ? AND version > ? GROUP BY parent, name ORDER BY parent, name",
                (edit.number, version),
            ).fetchall()
            before = [entry_of(row[0], row[1], row[3:]) for row in rows]
            edit.apply(entry for entry in reversed(before) if entry.kind == REMOVED)
            edit.apply(entry for entry in sorted(before) if entry.kind != REMOVED)
            return edit.finish(f"restore {version}")

        return await self._database.write(lambda connection: work(VolumeEdit(connection, volume_id), connection))

    # -- collecting
    async def forget_history(self, now: float) -> int:
        """Forget versions beyond what is kept; how many."""

        def work(connection: sqlite3.Connection) -> int:
            gone = 0
            for number, newest, size in connection.execute("SELECT number, version, bytes FROM volumes").fetchall():
                oldest = _oldest_kept(connection, number, newest, size, now)
                for table in ("volume_changes", "volume_versions"):
                    done = connection.execute(
                        f"DELETE FROM {table} WHERE volume = ? AND version < ?",  # noqa: S608
                        (number, oldest),
                    )
                gone += done.rowcount
            return gone

        return await self._database.write(work)

    async def contents(self) -> set[str]:
        """The hashes of all contents that any version refers to."""
        rows = await self._database.rows(
            "SELECT content FROM volume_files WHERE kind = 1 "
            "UNION ALL SELECT content FROM volume_changes WHERE kind = 1"
        )
        return {row[0].decode() for row in rows}


def _of(table: str) -> str:
    return ", ".join(f"{table}.{column}" for column in COLUMNS.split(", "))


def _changed(connection: sqlite3.Connection, volume_id: str, since: int) -> tuple[int, int, list[Entry]]:
    found = connection.execute("SELECT number, version FROM volumes WHERE volume_id = ?", (volume_id,)).fetchone()
    if found is None:
        return 0, 0, []
    number, newest = found
    oldest = connection.execute("SELECT min(version) FROM volume_versions WHERE volume = ?", (number,)).fetchone()[0]
    if since >= newest:
        return newest, newest, []
    if since and oldest is not None and since >= oldest - 1:
        rows = connection.execute(
            f"SELECT c.parent, c.name, {', '.join(f'f.{column}' for column in COLUMNS.split(', '))} "  # noqa: S608
            "FROM (SELECT DISTINCT parent, name FROM volume_changes WHERE volume = ?1 AND version > ?2) c "
            "LEFT JOIN volume_files f ON f.volume = ?1 AND f.parent = c.parent AND f.name = c.name",
            (number, since),
        ).fetchall()
        changes = [
            entry_of(row[0], row[1], row[2:])
            if row[2] is not None
            else entry_of(row[0], row[1], (REMOVED, 0, 0, 0, 0, 0, b""))
            for row in rows
        ]
        return newest, since, sorted([*changes, *_parents(connection, number, changes)])
    rows = connection.execute(
        f"SELECT parent, name, {COLUMNS} FROM volume_files WHERE volume = ?",  # noqa: S608
        (number,),
    ).fetchall()
    return newest, 0, sorted(entry_of(row[0], row[1], row[2:]) for row in rows)


def _parents(connection: sqlite3.Connection, number: int, changes: list[Entry]) -> list[Entry]:
    """The directories above the changes: a layer over an older tree needs them with their attributes."""
    known = {entry.path for entry in changes}
    wanted: set[str] = set()
    for entry in changes:
        above = entry.path.rpartition("/")[0]
        while above and above not in known and above not in wanted:
            wanted.add(above)
            above = above.rpartition("/")[0]
    found = []
    for path in wanted:
        parent, name = split(path)
        row = connection.execute(
            f"SELECT {COLUMNS} FROM volume_files WHERE volume = ? AND parent = ? AND name = ?",  # noqa: S608
            (number, parent, name),
        ).fetchone()
        if row is not None:
            found.append(entry_of(parent, name, row))
    return found


def _oldest_kept(connection: sqlite3.Connection, number: int, newest: int, size: int, now: float) -> int:
    """The first version of a volume whose own change stays known."""
    oldest = newest + 1
    limit = max(SUPERSEDED_KEPT, size)
    rows = connection.execute(
        "SELECT version, created_at, superseded FROM volume_versions WHERE volume = ? ORDER BY version DESC LIMIT ?",
        (number, VERSIONS_KEPT),
    )
    for version, created_at, superseded in rows:
        limit -= superseded
        if version != newest and (limit < 0 or created_at < now - AGE_KEPT):
            break
        oldest = version
    return oldest
