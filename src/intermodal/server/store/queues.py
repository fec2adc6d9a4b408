"""Items of queues. An item's place in its partition is a number that grows; see the migration for the keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

from intermodal.server.store.database import Database, Work

PLACES = 1 << 32  # in a partition
Ranges = list[tuple[int, int]]  # of places, both ends included
_CHUNK = 2000  # rows that one transaction deletes
_TOGETHER = 500  # rows that one statement inserts


class PartitionRow(NamedTuple):
    """`places`: of all its items; `taken`: token -> those handed out and not confirmed; `puts`: the latter's puts."""

    number: int
    expires_at: float
    places: list[int]
    taken: dict[bytes, Ranges]
    puts: list[bytes]


class QueueStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_partition(self) -> int:
        """The highest number in use."""
        row = await self._database.row("SELECT max(number) FROM queue_partitions")
        return int(row[0] or 0)

    async def count_partitions(self, queue: int) -> int:
        row = await self._database.row("SELECT count(*) FROM queue_partitions WHERE queue = ?", (queue,))
        return int(row[0])

    async def run(self, work: Work[Any]) -> Any:
        """`work` by the writer, so that it sees all that was given to it before."""
        return await self._database.write(work)

    async def after(self, number: int, place: int, limit: int, size: int) -> list[tuple[int, bytes, bytes]]:
        """Places, values and tokens of the items that follow, up to so many, or so many bytes and one."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, bytes, bytes]]:
            base = number * PLACES
            found, left = [], size
            for key, value, token in connection.execute(
                "SELECT key, value, token FROM queue_items WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
                (base + place, base + PLACES, limit),
            ):
                found.append((key - base, value, token))
                left -= len(value)
                if left <= 0:
                    break
            return found

        return await self._database.read(work)

    async def lengths(self, queue: int) -> list[tuple[bytes, int]]:
        """Key and number of items, those handed out included, of each partition with items."""
        rows = await self._database.rows(
            "SELECT key, (SELECT count(*) FROM queue_items WHERE queue_items.key BETWEEN number * 4294967296 "
            "AND number * 4294967296 + 4294967295) AS items FROM queue_partitions WHERE queue = ? AND items > 0",
            (queue,),
        )
        return [(row[0], row[1]) for row in rows]

    async def expired(self, now: float) -> list[int]:
        """Numbers of partitions whose time is over."""
        rows = await self._database.rows(
            "SELECT number FROM queue_partitions WHERE expires_at <= ? LIMIT 10000", (now,)
        )
        return [row[0] for row in rows]

    async def orphans(self) -> list[int]:
        """Queues that were deleted before all that was in them."""
        rows = await self._database.rows(
            "SELECT DISTINCT queue FROM queue_partitions WHERE queue NOT IN (SELECT number FROM objects)"
        )
        return [row[0] for row in rows]

    async def forget_puts(self, before: float) -> None:
        """Nobody sends them again after so long."""
        await self._database.execute("DELETE FROM queue_puts WHERE consumed_at < ?", (before,))

    async def drop_partition(self, number: int) -> None:
        """With its items, in small transactions."""
        base = number * PLACES
        while True:
            deleted = await self._database.execute(
                "DELETE FROM queue_items WHERE key IN (SELECT key FROM queue_items WHERE key BETWEEN ? AND ? LIMIT ?)",
                (base, base + PLACES - 1, _CHUNK),
            )
            if deleted < _CHUNK:
                break

        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM queue_taken WHERE partition = ?", (number,))
            connection.execute("DELETE FROM queue_partitions WHERE number = ?", (number,))

        await self._database.write(work)

    async def drop(self, queue: int) -> None:
        """All that is in a queue."""
        while rows := await self._database.rows(
            "SELECT number FROM queue_partitions WHERE queue = ? LIMIT 1000", (queue,)
        ):
            for (number,) in rows:
                await self.drop_partition(number)


# -- for the writer -------------------------------------------------------------------------------


def read_partition(connection: sqlite3.Connection, queue: int, key: bytes) -> PartitionRow | None:
    row = connection.execute(
        "SELECT number, expires_at FROM queue_partitions WHERE queue = ? AND key = ?", (queue, key)
    ).fetchone()
    if row is None:
        return None
    base = row[0] * PLACES
    places = connection.execute(
        "SELECT key - ? FROM queue_items WHERE key BETWEEN ? AND ? ORDER BY key", (base, base, base + PLACES - 1)
    ).fetchall()
    taken = {
        token: [(first, last) for first, last in json.loads(ranges)]
        for token, ranges in connection.execute("SELECT token, ranges FROM queue_taken WHERE partition = ?", (row[0],))
    }
    puts = [
        token
        for ranges in taken.values()
        for first, last in ranges
        for (token,) in connection.execute(
            "SELECT token FROM queue_items WHERE key BETWEEN ? AND ? AND token != x''", (base + first, base + last)
        )
    ]
    return PartitionRow(row[0], row[1], [place for (place,) in places], taken, puts)


def drop_empty(connection: sqlite3.Connection, queue: int, loaded: list[int]) -> int:
    """Delete the partitions without items, except those that are in memory; how many."""
    return connection.execute(
        "DELETE FROM queue_partitions WHERE queue = ? AND number NOT IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM queue_items WHERE queue_items.key BETWEEN number * 4294967296 "
        "AND number * 4294967296 + 4294967295)",
        (queue, json.dumps(loaded)),
    ).rowcount


class PartitionChanges(NamedTuple):
    """What became of a partition since the store has heard of it; `apply` carries it out."""

    number: int
    made: tuple[int, bytes, float] | None  # queue, key, when it expires at the latest
    kept_until: float | None
    old_puts: Ranges  # their tokens are kept
    deleted: Ranges
    items: list[tuple[int, bytes, bytes]]  # place, value, token
    given_back: list[bytes]
    taken: dict[bytes, Ranges]


def apply(connection: sqlite3.Connection, changes: PartitionChanges) -> None:
    """May come again after it failed: nothing of it was done then."""
    number, base = changes.number, changes.number * PLACES
    if changes.made is not None:
        _make(connection, number, *changes.made)
    if changes.kept_until is not None:
        connection.execute("UPDATE queue_partitions SET expires_at = ? WHERE number = ?", (changes.kept_until, number))
    _keep_puts(connection, base, changes.old_puts)
    delete_ranges(connection, number, changes.deleted)
    _insert(connection, [(base + place, value, token) for place, value, token in changes.items])
    if changes.given_back:
        connection.executemany("DELETE FROM queue_taken WHERE token = ?", [(token,) for token in changes.given_back])
    for token, ranges in changes.taken.items():
        _take(connection, number, token, ranges)


# -- what the journal says, one by one: together they do what `apply` does ------------------------


def redo_put(
    connection: sqlite3.Connection,
    number: int,
    made: tuple[int, bytes, float] | None,
    kept_until: float | None,
    first: int,
    items: list[bytes],
    token: bytes,
) -> None:
    if made is not None:
        _make(connection, number, *made)
    if kept_until is not None:
        connection.execute("UPDATE queue_partitions SET expires_at = ? WHERE number = ?", (kept_until, number))
    base = number * PLACES + first
    connection.executemany(
        "INSERT INTO queue_items (key, value, token) VALUES (?, ?, ?)",
        [(base + index, item, b"" if index else token) for index, item in enumerate(items)],
    )


def redo_lend(
    connection: sqlite3.Connection,
    number: int,
    token: bytes,
    ranges: Ranges,
    confirmed: Sequence[tuple[int, bytes, Ranges, bool]] = (),
) -> None:
    """`confirmed`: what was confirmed just before, as `redo_confirm` takes it."""
    for record in confirmed:
        redo_confirm(connection, *record)
    _take(connection, number, token, ranges)


def redo_confirm(connection: sqlite3.Connection, number: int, token: bytes, ranges: Ranges, old: bool) -> None:
    if old:
        _keep_puts(connection, number * PLACES, ranges)
    delete_ranges(connection, number, ranges)
    redo_take_back(connection, token)


def redo_take_back(connection: sqlite3.Connection, token: bytes) -> None:
    connection.execute("DELETE FROM queue_taken WHERE token = ?", (token,))


def redo_delete(connection: sqlite3.Connection, number: int, ranges: Ranges) -> None:
    delete_ranges(connection, number, ranges)


REDO: dict[str, Callable[..., Any]] = {
    "put": redo_put,
    "lend": redo_lend,
    "confirm": redo_confirm,
    "take-back": redo_take_back,
    "delete": redo_delete,
}


# -- parts of both --------------------------------------------------------------------------------


def _make(connection: sqlite3.Connection, number: int, queue: int, key: bytes, expires_at: float) -> None:
    connection.execute(
        "INSERT INTO queue_partitions (number, queue, key, expires_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (number) DO UPDATE SET expires_at = excluded.expires_at",
        (number, queue, key, expires_at),
    )


def _insert(connection: sqlite3.Connection, rows: list[tuple[int, bytes, bytes]]) -> None:
    """Many rows in one statement: one after another, the event loop would have to wait for Python's lock each time."""
    for begin in range(0, len(rows), _TOGETHER):
        part = rows[begin : begin + _TOGETHER]
        connection.execute(
            f"INSERT INTO queue_items (key, value, token) VALUES {','.join(['(?, ?, ?)'] * len(part))}",  # noqa: S608
            [*chain.from_iterable(part)],
        )


def _keep_puts(connection: sqlite3.Connection, base: int, ranges: Ranges) -> None:
    for first, last in ranges:
        connection.execute(
            "INSERT OR IGNORE INTO queue_puts (token, consumed_at) "
            "SELECT token, strftime('%s', 'now') FROM queue_items WHERE key BETWEEN ? AND ? AND token != x''",
            (base + first, base + last),
        )


def _take(connection: sqlite3.Connection, number: int, token: bytes, ranges: Ranges) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO queue_taken (token, partition, ranges) VALUES (?, ?, ?)",
        (token, number, json.dumps(ranges)),
    )


def delete_ranges(connection: sqlite3.Connection, number: int, ranges: Ranges) -> None:
    base = number * PLACES
    for first, last in ranges:
        if first == last:
            connection.execute("DELETE FROM queue_items WHERE key = ?", (base + first,))
        else:
            connection.execute("DELETE FROM queue_items WHERE key BETWEEN ? AND ?", (base + first, base + last))


# -- for the writer -------------------------------------------------------------------------------


def was_put(connection: sqlite3.Connection, number: int, token: bytes) -> bool:
    base = number * PLACES
    found = connection.execute(
        "SELECT 1 FROM queue_items WHERE key BETWEEN ? AND ? AND token = ? "
        "UNION ALL SELECT 1 FROM queue_puts WHERE token = ?",
        (base, base + PLACES - 1, token, token),
    ).fetchone()
    return found is not None


def whereabouts(connection: sqlite3.Connection, tokens: list[bytes]) -> list[tuple[str, bytes]]:
    """Queue (its id) and key of the partitions of what was lent under these tokens."""
    return connection.execute(
        f"SELECT DISTINCT object_id, key FROM queue_taken JOIN queue_partitions p ON p.number = partition "  # noqa: S608
        f"JOIN objects ON objects.number = queue WHERE token IN ({','.join('?' * len(tokens))})",
        tokens,
    ).fetchall()
