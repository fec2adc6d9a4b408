"""Entries of dicts. `cutoff` is a time: an entry that was last used before it has expired."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

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
    ) -> tuple[list[tuple[bytes, bytes, str, float]], bool]:
        """Key, value, blob, last use of those that follow, up to so many, or so many bytes and one; are there more?"""

        def work(connection: sqlite3.Connection) -> tuple[list[tuple[bytes, bytes, str, float]], bool]:
            found: list[tuple[bytes, bytes, str, float]] = []
            left = size
            rows = connection.execute(
                f"SELECT key, {'value' if values else 'zeroblob(0)'}, blob, used_at FROM dict_entries "  # noqa: S608
                "WHERE dict = ? AND key > ? AND used_at >= ? ORDER BY key LIMIT ?",
                (number, key, cutoff, limit + 1),
            )
            for row in rows:
                if len(found) >= limit or (found and left < len(row[0]) + len(row[1])):
                    return found, True
                left -= len(row[0]) + len(row[1])
                found.append(row)
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

    # -- changing
    async def put(
        self, number: int, entries: list[tuple[bytes, bytes, str, int]], token: bytes, now: float, old_blobs: bool
    ) -> list[str]:
        """Write these (key, value, blob, size), all or none; blobs that nothing holds any more (if asked for)."""
        keys = [entry[0] for entry in entries] if old_blobs else []

        def work(connection: sqlite3.Connection) -> list[str]:
            gone = []
            for key in keys:
                row = connection.execute(
                    "SELECT blob FROM dict_entries WHERE dict = ? AND key = ? AND blob != ''", (number, key)
                ).fetchone()
                if row is not None:
                    gone.append(row[0])
            connection.executemany(
                "INSERT OR REPLACE INTO dict_entries (dict, key, value, blob, size, token, used_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(number, key, value, blob, size, token, now) for key, value, blob, size in entries],
            )
            new = {entry[2] for entry in entries}
            return [blob for blob in gone if blob not in new]  # a request that came twice

        return await self._database.write(work)

    async def put_new(
        self, number: int, entry: tuple[bytes, bytes, str, int], token: bytes, now: float, cutoff: float
    ) -> bool:
        """Write it unless there is one with its key that this request did not write itself; is it there?"""
        key, value, blob, size = entry

        def work(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT token, used_at FROM dict_entries WHERE dict = ? AND key = ?", (number, key)
            ).fetchone()
            if row is not None and row[1] >= cutoff:
                return bool(row[0] == token)
            connection.execute(
                "INSERT OR REPLACE INTO dict_entries (dict, key, value, blob, size, token, used_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (number, key, value, blob, size, token, now),
            )
            return True

        return await self._database.write(work)

    async def pop(self, number: int, key: bytes, token: bytes, again: bool, now: float, cutoff: float) -> Entry | None:
        """Take an entry out. It is kept under the token until `popped_arrived`."""

        def work(connection: sqlite3.Connection) -> Entry | None:
            if again:
                row = connection.execute(
                    "SELECT value, blob, size, popped_at FROM dict_popped WHERE token = ?", (token,)
                ).fetchone()
                if row is not None:
                    return Entry(*row)
            row = connection.execute(
                "SELECT value, blob, size, used_at FROM dict_entries WHERE dict = ? AND key = ? AND used_at >= ?",
                (number, key, cutoff),
            ).fetchone()
            if row is None:
                return None
            connection.execute("DELETE FROM dict_entries WHERE dict = ? AND key = ?", (number, key))
            connection.execute(
                "INSERT OR REPLACE INTO dict_popped (token, value, blob, size, popped_at) VALUES (?, ?, ?, ?, ?)",
                (token, row[0], row[1], row[2], now),
            )
            return Entry(*row)

        return await self._database.write(work)

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

    async def clear(self, number: int) -> list[str]:
        """All entries, at once; the large values that they held."""

        def work(connection: sqlite3.Connection) -> list[str]:
            blobs = connection.execute(
                "SELECT blob FROM dict_entries WHERE dict = ? AND blob != ''", (number,)
            ).fetchall()
            connection.execute("DELETE FROM dict_entries WHERE dict = ?", (number,))
            return [blob for (blob,) in blobs]

        return await self._database.write(work)

    async def drop(self, number: int) -> list[str]:
        """As `clear` of one that was deleted: in small transactions."""

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
