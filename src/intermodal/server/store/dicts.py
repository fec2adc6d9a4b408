"""Entries of dicts. `cutoff` is a time: an entry that was last used before it has expired."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from intermodal.server.store.database import Database

_CHUNK = 1000  # rows that one transaction deletes


class Entry(NamedTuple):
    """`blob`: the file of a large value, whose `value` is empty."""

    value: bytes
    blob: str
    size: int
    used_at: float


class DictStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading
    async def get(self, number: int, key: bytes, cutoff: float) -> Entry | None:
        row = await self._database.row(
            "SELECT value, blob, size, used_at FROM dict_entries WHERE dict = ? AND key = ? AND used_at >= ?",
            (number, key, cutoff),
        )
        return None if row is None else Entry(*row)

    async def after(
        self, number: int, key: bytes, cutoff: float, values: bool, limit: int, size: int
    ) -> tuple[list[tuple[bytes, Entry]], bool]:
        """Those whose keys follow, up to so many, or so many bytes and one; are there more?"""

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[bytes, Entry]], bool]:
            found: list[tuple[bytes, Entry]] = []
            left = size
            rows = connection.execute(
                f"SELECT key, {'value' if values else 'zeroblob(0)'}, blob, size, used_at FROM dict_entries "  # noqa: S608
                "WHERE dict = ? AND key > ? AND used_at >= ? ORDER BY key LIMIT ?",
                (number, key, cutoff, limit + 1),
            )
            for row in rows:
                if len(found) >= limit or (found and left < len(row[0]) + len(row[1])):
                    return found, True
                left -= len(row[0]) + len(row[1])
                found.append((row[0], Entry(*row[1:])))
            return found, False

        return await self._database.read(work)

    async def count(self, number: int, cutoff: float, limit: int) -> int:
        row = await self._database.row(
            "SELECT count(*) FROM (SELECT 1 FROM dict_entries WHERE dict = ? AND used_at >= ? LIMIT ?)",
            (number, cutoff, limit),
        )
        return int(row[0])

    async def with_blobs(self) -> set[int]:
        """Dicts that hold large values."""
        return {row[0] for row in await self._database.rows("SELECT DISTINCT dict FROM dict_entries WHERE blob != ''")}

    async def blobs_in_use(self, blobs: list[str]) -> set[str]:
        """Which of these values a dict holds."""
        rows = await self._database.rows(
            "SELECT blob FROM dict_entries WHERE blob != '' AND blob IN (SELECT value FROM json_each(?1)) UNION "
            "SELECT blob FROM dict_popped WHERE blob != '' AND blob IN (SELECT value FROM json_each(?1))",
            (json.dumps(blobs),),
        )
        return {row[0] for row in rows}

    async def orphans(self) -> list[int]:
        """Dicts that were deleted before all that was in them."""
        rows = await self._database.rows(
            "SELECT DISTINCT dict FROM dict_entries WHERE dict NOT IN (SELECT number FROM objects)"
        )
        return [row[0] for row in rows]

    async def token_of(self, number: int, key: bytes) -> bytes | None:
        """Of the request that wrote this entry."""
        row = await self._database.row("SELECT token FROM dict_entries WHERE dict = ? AND key = ?", (number, key))
        return None if row is None else row[0]

    async def popped(self, token: bytes) -> Entry | None:
        """What was popped under this token and has not arrived, as far as is known."""
        row = await self._database.row("SELECT value, blob, size, popped_at FROM dict_popped WHERE token = ?", (token,))
        return None if row is None else Entry(*row)

    # -- changing
    async def popped_arrived(self, tokens: list[bytes]) -> list[str]:
        """Forget them; the large values that they were."""

        def work(connection: sqlite3.Connection) -> list[str]:
            blobs = []
            for token in tokens:
                row = connection.execute("SELECT blob FROM dict_popped WHERE token = ?", (token,)).fetchone()
                if row is not None:
                    connection.execute("DELETE FROM dict_popped WHERE token = ?", (token,))
                    if row[0]:
                        blobs.append(row[0])
            return blobs

        return await self._database.write(work)

    async def forget_popped(self, before: float) -> list[str]:
        """Those that nobody has asked for again in time."""
        rows = await self._database.rows("SELECT token FROM dict_popped WHERE popped_at < ? LIMIT 10000", (before,))
        return await self.popped_arrived([row[0] for row in rows])

    async def touch(self, keys: list[tuple[int, bytes]], now: float) -> None:
        """They were read."""
        rows = [(now, number, key) for number, key in keys]
        await self._database.write(
            lambda connection: connection.executemany(
                "UPDATE dict_entries SET used_at = ? WHERE dict = ? AND key = ?", rows
            )
        )

    async def drop(self, number: int) -> list[str]:
        """All entries of one that was deleted, in small transactions; the large values that they held."""

        def work(connection: sqlite3.Connection) -> list[tuple[bytes, str]]:
            rows = connection.execute(
                "SELECT key, blob FROM dict_entries WHERE dict = ? LIMIT ?", (number, _CHUNK)
            ).fetchall()
            connection.executemany(
                "DELETE FROM dict_entries WHERE dict = ? AND key = ?", [(number, key) for key, _blob in rows]
            )
            return rows

        blobs: list[str] = []
        while rows := await self._database.write(work):
            blobs += [blob for _key, blob in rows if blob]
        return blobs

    async def expire(self, cutoff: float) -> tuple[int, list[str]]:
        """Delete what was not used since; how many, and their large values."""
        last: tuple[int, bytes] = (-1, b"")
        count = 0
        blobs: list[str] = []
        while True:
            # Looked for by a reader, page by page, so that the writer is not held up by entries that stay.
            rows = await self._database.rows(
                "SELECT dict, key, used_at FROM dict_entries WHERE (dict, key) > (?, ?) ORDER BY dict, key LIMIT 10000",
                last,
            )
            if not rows:
                return count, blobs
            last = (rows[-1][0], rows[-1][1])
            old = [(row[0], row[1], cutoff) for row in rows if row[2] < cutoff]
            if old:
                gone = await self._database.write(lambda connection, old=old: _delete_old(connection, old))  # type: ignore[misc]
                count += len(gone)
                blobs += [blob for blob in gone if blob]


def _delete_old(connection: sqlite3.Connection, keys: list[tuple[int, bytes, float]]) -> list[str]:
    blobs = []
    for name in keys:
        row = connection.execute(
            "SELECT blob FROM dict_entries WHERE dict = ? AND key = ? AND used_at < ?", name
        ).fetchone()
        if row is not None:
            connection.execute("DELETE FROM dict_entries WHERE dict = ? AND key = ?", name[:2])
            blobs.append(row[0])
    return blobs


# -- for the writer -------------------------------------------------------------------------------


class Popped(NamedTuple):
    entry: Entry
    popped_at: float


class DictChanges(NamedTuple):
    """What became of a dict since the store has heard of it; `apply` carries it out."""

    number: int
    cleared: bool  # before all others
    blobs: bool  # it may hold large values
    rows: list[tuple[bytes, bytes, str, int, bytes, float]]  # key, value, blob, size, token, last use
    removed: list[bytes]  # keys
    gone: list[str]  # large values that nothing holds any more
    moved: set[str]  # large values that were popped


def apply(connection: sqlite3.Connection, changes: DictChanges) -> list[str]:
    """The large values that nothing holds any more. May come again after it failed: nothing of it was done then."""
    number, gone = changes.number, list(changes.gone)
    if changes.cleared:
        gone += _clear(connection, number)
    elif changes.blobs:
        for row in changes.rows:
            found = connection.execute(
                "SELECT blob FROM dict_entries WHERE dict = ? AND key = ? AND blob != ''", (number, row[0])
            ).fetchone()
            if found is not None:
                gone.append(found[0])
    connection.executemany(_PUT, [(number, *row) for row in changes.rows])
    connection.executemany(_REMOVE, [(number, key) for key in changes.removed])
    kept = {row[2] for row in changes.rows} | changes.moved  # of the former: a request that came twice
    return [blob for blob in gone if blob not in kept]


def add_popped(connection: sqlite3.Connection, popped: dict[bytes, Popped]) -> None:
    connection.executemany(
        _POPPED,
        [(token, entry.value, entry.blob, entry.size, at) for token, (entry, at) in popped.items()],
    )


# What the journal says, one by one: together these do what `apply` and `add_popped` do. Large values that are replaced
# here stay until the hourly cleaning finds them.


def redo_put(
    connection: sqlite3.Connection,
    number: int,
    token: bytes,
    now: float,
    keys: list[bytes],
    values: list[bytes],
    blobs: list[str],
    sizes: list[int],
) -> None:
    """Without `blobs` and `sizes`: all are small."""
    if blobs:
        values = [b"" if blob else value for value, blob in zip(values, blobs, strict=True)]
    else:
        blobs, sizes = [""] * len(keys), [len(value) for value in values]
    rows = zip(keys, values, blobs, sizes, strict=True)
    connection.executemany(_PUT, [(number, *row, token, now) for row in rows])


def redo_pop(connection: sqlite3.Connection, number: int, key: bytes, token: bytes, now: float) -> None:
    row = connection.execute(
        "SELECT value, blob, size FROM dict_entries WHERE dict = ? AND key = ?", (number, key)
    ).fetchone()
    if row is not None:
        connection.execute(_REMOVE, (number, key))
        connection.execute(_POPPED, (token, *row, now))


def redo_clear(connection: sqlite3.Connection, number: int) -> None:
    _clear(connection, number)


REDO: dict[str, Callable[..., Any]] = {"dict-put": redo_put, "dict-pop": redo_pop, "dict-clear": redo_clear}

_PUT = "INSERT OR REPLACE INTO dict_entries (dict, key, value, blob, size, token, used_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM dict_entries WHERE dict = ? AND key = ?"
_POPPED = "INSERT OR REPLACE INTO dict_popped (token, value, blob, size, popped_at) VALUES (?, ?, ?, ?, ?)"


def _clear(connection: sqlite3.Connection, number: int) -> list[str]:
    blobs = connection.execute("SELECT blob FROM dict_entries WHERE dict = ? AND blob != ''", (number,)).fetchall()
    connection.execute("DELETE FROM dict_entries WHERE dict = ?", (number,))
    return [blob for (blob,) in blobs]
