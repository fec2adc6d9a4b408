"""Spawned calls: their inputs until they have an output, and their outputs for seven days.

Built for a million waiting inputs. Rows go in and out 64 at a time in one statement, which also
keeps the interpreter's lock free while SQLite works. An input leaves its table when it is finished;
what remains is what waits or runs. Blobs that a row names belong to the row (see `blobs_in_use`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from intermodal.server.store.database import Database
from modal._protocol.messages.call import Status

OUTPUTS_KEPT = 7 * 86400.0  # seconds
CALLS_KEPT = 30 * 86400.0  # seconds that an expired call is still known as such
OPEN, CANCELLED, EXPIRED = 0, 1, 2  # calls.state
_GROUP = 64  # rows in one statement
_STEP = 5000  # inputs that are ended in one transaction
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_INPUT = "(?, ?, ?, ?, ?, ?)"
_OUTPUT = "(?, ?, ?, ?, ?, ?)"
_INSERT_INPUTS = "INSERT OR IGNORE INTO inputs (key, seq, function, args, blob, method) VALUES "
_INSERT_OUTPUTS = "INSERT OR IGNORE INTO outputs (key, status, value, blob, container_id, finished_at) VALUES "


class NewCall(NamedTuple):
    """What a call is when its first inputs come."""

    call_id: str
    function_id: str
    parent_input_id: str = ""


class NewInput(NamedTuple):
    """One input of a Spawn message."""

    index: int  # type: ignore[assignment]  # a row has no use for tuple.index
    args: bytes
    blob: str = ""
    method: str = ""


class Added(NamedTuple):
    """`indexes`: the inputs that were not known before, in order. `cursor`: of the last of them.

    `cancelled`: the call was cancelled (or has expired), nothing was added.
    """

    indexes: list[int]
    cursor: int
    cancelled: bool


class PendingInput(NamedTuple):
    """An input without a final output. `cursor` orders by arrival."""

    cursor: int
    call_id: str
    index: int  # type: ignore[assignment]  # a row has no use for tuple.index
    args: bytes
    blob: str
    method: str
    attempts: int


class Attempts(NamedTuple):
    """How often an input without an output has failed, and the last attempt that this counts (see `attempt_name`)."""

    count: int  # type: ignore[assignment]  # a row has no use for tuple.count
    last: str


def attempt_name(container_id: str, token: int) -> str:
    """What the store calls an attempt."""
    return f"{container_id}/{token}"


class Finished(NamedTuple):
    """The final output of one input."""

    call_id: str
    index: int  # type: ignore[assignment]  # a row has no use for tuple.index
    status: int
    value: bytes = b""
    blob: str = ""
    container_id: str = ""


class Output(NamedTuple):
    """A stored output. `expired`: its seven days are over, and the value is gone or about to go."""

    status: int
    value: bytes
    blob: str
    container_id: str
    finished_at: float
    expired: bool


class Call(NamedTuple):
    """A stored call; `state` is OPEN, CANCELLED or EXPIRED."""

    call_id: str
    function_id: str
    parent_input_id: str
    created_at: float
    closed: bool
    state: int


class GraphInput(NamedTuple):
    """One input in a call graph; `status` is None while there is no output."""

    call_id: str
    index: int  # type: ignore[assignment]  # a row has no use for tuple.index
    function_id: str
    parent_input_id: str
    status: int | None
    container_id: str


class CallStore:
    """The tables calls, inputs and outputs. A call's rows are found by number, and numbers by id."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self.forget_values: Callable[[Iterable[str]], None] = lambda _blobs: (
            None
        )  # large ones that no row names any more
        self._next_seq = 0  # touched by the writer's thread only; 0: not read yet

    # -- inputs
    def add_spawned_soon(
        self,
        call: NewCall,
        rows: Sequence[NewInput],
        last: bool,
        done: Callable[[Added | None, Exception | None], None],
    ) -> None:
        """Keep inputs; `done(added, error)` is called on the event loop once they are durable.

        Rows that exist, or have an output, are ignored.
        """
        self._database.write_soon(lambda connection: self._add(connection, call, rows, last), done)

    async def pending(self, function_id: str, after_cursor: int = 0, limit: int = 1000) -> list[PendingInput]:
        """The next inputs of a function without an output, in the order in which they arrived."""
        return [
            PendingInput(seq, call_id, key & _INDEX_MASK, args, blob, method, attempts)
            for seq, call_id, key, args, blob, method, attempts in await self._database.rows(
                "SELECT i.seq, c.call_id, i.key, i.args, i.blob, i.method, i.attempts FROM inputs i "
                "JOIN calls c ON c.number = i.key >> 32 "
                "WHERE i.function = (SELECT number FROM called_functions WHERE function_id = ?) AND i.seq > ? "
                "ORDER BY i.seq LIMIT ?",
                (function_id, after_cursor, limit),
            )
        ]

    async def input(self, call_id: str, index: int) -> PendingInput | None:
        """One input that has no output yet."""
        row = await self._database.row(
            "SELECT i.seq, c.call_id, i.args, i.blob, i.method, i.attempts FROM calls c "
            "JOIN inputs i ON i.key = (c.number << 32) + ? WHERE c.call_id = ?",
            (index, call_id),
        )
        return None if row is None else PendingInput(row[0], row[1], index, *row[2:])

    async def without_output(self, input_ids: Sequence[str]) -> dict[str, Attempts | None]:
        """Of these inputs those of stored calls; None: it has an output. Sees what is about to be written."""

        def work(connection: sqlite3.Connection) -> dict[str, Attempts | None]:
            numbers = _numbers(connection, {parent_call_id(input_id) for input_id in input_ids})
            found: dict[str, Attempts | None] = {}
            for input_id in input_ids:
                number = numbers.get(parent_call_id(input_id))
                if number is not None:
                    key = _key(number, int(input_id.rpartition("-")[2]))
                    row = connection.execute("SELECT attempts, counted FROM inputs WHERE key = ?", (key,)).fetchone()
                    found[input_id] = None if row is None else Attempts(*row)
            return found

        return await self._database.write(work)

    async def count_pending(self) -> dict[str, int]:
        """Function id -> inputs without an output."""
        rows = await self._database.rows(
            "SELECT f.function_id, count(*) FROM inputs i JOIN called_functions f ON f.number = i.function "
            "GROUP BY i.function"
        )
        return dict(rows)

    async def set_attempts(self, attempts: Sequence[tuple[str, int, Attempts]]) -> None:
        """(call id, index, attempts so far): survives a restart, so that retries are counted right."""

        def work(connection: sqlite3.Connection) -> None:
            numbers = _numbers(connection, {call_id for call_id, _index, _made in attempts})
            connection.executemany(
                "UPDATE inputs SET attempts = ?, counted = ? WHERE key = ?",
                [(*made, _key(numbers[call_id], index)) for call_id, index, made in attempts if call_id in numbers],
            )

        await self._database.write(work)

    # -- outputs
    def finish(self, rows: Sequence[Finished], done: Callable[[Exception | None], None] | None = None) -> None:
        """Keep final outputs; `done(error)` is called on the event loop once they are durable.

        The first output of an input stands; later ones are ignored.
        """

        def finished(blobs: list[str] | None, error: Exception | None) -> None:
            if blobs:
                self.forget_values(blobs)
            if done is not None:
                done(error)

        self._database.write_soon(lambda connection: self._finish(connection, rows), finished)

    async def output(self, call_id: str, index: int = 0) -> Output | None:
        """The output of one input, None while there is none (or the call is not known: see `call`)."""
        row = await self._database.row(
            "SELECT o.status, o.value, o.blob, o.container_id, o.finished_at FROM calls c "
            "JOIN outputs o ON o.key = (c.number << 32) + ? WHERE c.call_id = ?",
            (index, call_id),
        )
        return None if row is None else Output(*(*row, row[4] < self._clock() - OUTPUTS_KEPT))

    # -- calls
    async def call(self, call_id: str) -> Call | None:
        row = await self._database.row(
            "SELECT c.call_id, f.function_id, c.parent_input_id, c.created_at, c.closed, c.state FROM calls c "
            "JOIN called_functions f ON f.number = c.function WHERE c.call_id = ?",
            (call_id,),
        )
        return None if row is None else Call(row[0], row[1], row[2], row[3], bool(row[4]), row[5])

    async def cancel(
        self, call_id: str, value: bytes = b"", told: Callable[[list[int]], None] = lambda _indexes: None
    ) -> int:
        """All inputs without an output become TERMINATED with this value (a packed CallFailure); how many.

        From the first step on the call takes nothing new. `told` hears of the inputs of each step that ended by it.
        """

        def mark(connection: sqlite3.Connection) -> int | None:
            number = _numbers(connection, {call_id}).get(call_id)
            if number is not None:
                connection.execute(
                    "UPDATE calls SET state = 1, changed_at = ? WHERE number = ?", (self._clock(), number)
                )
            return number

        number = await self._database.write(mark)
        if number is None:
            return 0
        return await self._end("key BETWEEN ? AND ?", _span(number), Status.TERMINATED, value, told)

    async def half_cancelled(self) -> list[str]:
        """The calls whose cancellation did not get to its end: the server died."""
        rows = await self._database.rows(
            "SELECT call_id FROM calls c WHERE state = 1 AND EXISTS "
            "(SELECT 1 FROM inputs WHERE key BETWEEN c.number << 32 AND (c.number << 32) + 4294967295)"
        )
        return [row[0] for row in rows]

    async def fail_function(self, function_ids: Sequence[str], status: int, value: bytes) -> int:
        """Every input of these functions without an output gets this one (its app was stopped); how many."""
        count = 0
        for function_id in function_ids:
            row = await self._database.row("SELECT number FROM called_functions WHERE function_id = ?", (function_id,))
            if row is not None:
                count += await self._end("function = ?", row, status, value)
        return count

    async def _end(
        self,
        where: str,
        parameters: tuple[int, ...],
        status: int,
        value: bytes,
        told: Callable[[list[int]], None] = lambda _indexes: None,
    ) -> int:
        """Give these inputs an output, in steps, so that a million of them do not hold up other writers for long."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            some = f"(SELECT key FROM inputs WHERE {where} LIMIT {_STEP})"  # noqa: S608 - from above
            connection.execute(
                "INSERT OR IGNORE INTO outputs (key, status, value, finished_at) "  # noqa: S608
                f"SELECT key, ?, ?, ? FROM inputs WHERE key IN {some}",
                (status, value, self._clock(), *parameters),
            )
            return connection.execute(
                f"DELETE FROM inputs WHERE key IN {some} RETURNING key, blob",  # noqa: S608
                parameters,
            ).fetchall()

        count = 0
        while ended := await self._database.write(work):
            count += len(ended)
            self.forget_values([blob for _key, blob in ended if blob])
            told([key & _INDEX_MASK for key, _blob in ended])
        return count

    async def expire(self, older_than: float) -> list[str]:
        """Forget what did not change since that time (seconds since the epoch); the ids of the expired calls.

        Done in steps, so that it never holds up other writers for long.
        """
        gone: list[str] = []
        while True:
            due = await self._database.rows(
                "SELECT number, call_id FROM calls WHERE changed_at < ? AND state != 2 ORDER BY changed_at LIMIT 100",
                (older_than,),
            )
            if not due:
                break
            for number, call_id in due:
                more = True
                while more:
                    more, blobs = await self._database.write(partial(_drop_some, number))
                    self.forget_values(blobs)
                gone.append(call_id)
        await self._database.execute(
            "DELETE FROM calls WHERE state = 2 AND changed_at < ?", (older_than + OUTPUTS_KEPT - CALLS_KEPT,)
        )
        return gone

    async def graph(self, call_ids: Iterable[str]) -> list[GraphInput]:
        """All stored inputs of these calls, and of those below them, as far as the calls between are stored."""
        rows = await self._database.rows(_GRAPH, (json.dumps(list(call_ids)),))
        return [
            GraphInput(found, key & _INDEX_MASK, function_id, parent, status, container_id)
            for found, key, function_id, parent, status, container_id in rows
        ]

    async def children(self, call_ids: Iterable[str]) -> list[str]:
        """The stored calls whose parent input belongs to one of these calls."""
        wanted = list(call_ids)

        def work(connection: sqlite3.Connection) -> list[str]:
            found: list[str] = []
            for call_id in wanted:
                rows = connection.execute("SELECT call_id FROM calls WHERE parent_call_id = ?", (call_id,))
                found.extend(row[0] for row in rows)
            return found

        return await self._database.read(work)

    async def blobs_in_use(self, blob_ids: Sequence[str]) -> set[str]:
        """Those of these blobs that a stored input or output still needs."""

        def work(connection: sqlite3.Connection) -> set[str]:
            used = set()
            for blob_id in blob_ids:
                if connection.execute(
                    "SELECT 1 FROM inputs WHERE blob = ?1 AND blob != '' "
                    "UNION ALL SELECT 1 FROM outputs WHERE blob = ?1 AND blob != ''",
                    (blob_id,),
                ).fetchone():
                    used.add(blob_id)
            return used

        return await self._database.read(work)

    # -- on the writer's thread
    def _add(self, connection: sqlite3.Connection, call: NewCall, rows: Sequence[NewInput], last: bool) -> Added:
        now = self._clock()
        known = connection.execute("SELECT number, state, function FROM calls WHERE call_id = ?", (call.call_id,))
        found = known.fetchone()
        if found is None:
            function = _function_number(connection, call.function_id)
            parent_call = parent_call_id(call.parent_input_id)
            number = connection.execute(
                "INSERT INTO calls "
                "(call_id, function, parent_input_id, parent_call_id, created_at, changed_at, closed) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (call.call_id, function, call.parent_input_id, parent_call, now, now, last),
            ).lastrowid
            assert number is not None
        else:
            number, state, function = found
            if state != OPEN:
                return Added([], 0, True)
            connection.execute(
                "UPDATE calls SET changed_at = ?, closed = max(closed, ?) WHERE number = ?", (now, last, number)
            )
            rows = _without_output(connection, number, rows)
        first = self._sequence(connection, len(rows))
        values = [
            (_key(number, row.index), first + at, function, row.args, row.blob, row.method)
            for at, row in enumerate(rows)
        ]
        added = _insert(connection, _INSERT_INPUTS, _INPUT, values)
        if added == len(rows):
            return Added([row.index for row in rows], first + len(rows) - 1, False)
        fresh = connection.execute(
            "SELECT key, seq FROM inputs WHERE function = ? AND seq >= ? ORDER BY seq", (function, first)
        ).fetchall()
        return Added([key & _INDEX_MASK for key, _seq in fresh], fresh[-1][1] if fresh else 0, False)

    def _sequence(self, connection: sqlite3.Connection, count: int) -> int:
        """The first of `count` new sequence numbers. Numbers of undone transactions are lost, which harms nobody."""
        if not self._next_seq:
            newest = connection.execute("SELECT max(seq) FROM (SELECT max(seq) seq FROM inputs GROUP BY function)")
            self._next_seq = (newest.fetchone()[0] or 0) + 1
        first = self._next_seq
        self._next_seq += count
        return first

    def _finish(self, connection: sqlite3.Connection, rows: Sequence[Finished]) -> list[str]:
        """The large values that these inputs had."""
        now = self._clock()
        numbers = _numbers(connection, {row.call_id for row in rows})
        values = [
            (_key(numbers[row.call_id], row.index), row.status, row.value, row.blob, row.container_id, now)
            for row in rows
            if row.call_id in numbers
        ]
        _insert(connection, _INSERT_OUTPUTS, _OUTPUT, values)
        keys = [value[0] for value in values]
        blobs = _blobs_of(connection, keys)
        _delete_inputs(connection, keys)
        connection.executemany(
            "UPDATE calls SET changed_at = ? WHERE number = ?", [(now, number) for number in numbers.values()]
        )
        return blobs


_GRAPH = """
WITH RECURSIVE
wanted (call_id) AS (SELECT value FROM json_each(?)),
below (number, call_id, function, parent_input_id) AS (
    SELECT number, call_id, function, parent_input_id FROM calls WHERE call_id IN (SELECT call_id FROM wanted)
    UNION SELECT number, call_id, function, parent_input_id FROM calls
    WHERE parent_call_id IN (SELECT call_id FROM wanted) AND parent_call_id != ''
    UNION SELECT c.number, c.call_id, c.function, c.parent_input_id
    FROM calls c JOIN below b ON c.parent_call_id = b.call_id AND c.parent_call_id != ''
),
found (number, key, status, container_id) AS (
    SELECT b.number, i.key, NULL, '' FROM below b
    JOIN inputs i ON i.key BETWEEN b.number << 32 AND (b.number << 32) + 4294967295
    UNION ALL SELECT b.number, o.key, o.status, o.container_id FROM below b
    JOIN outputs o ON o.key BETWEEN b.number << 32 AND (b.number << 32) + 4294967295
)
SELECT b.call_id, found.key, f.function_id, b.parent_input_id, found.status, found.container_id
FROM found JOIN below b ON b.number = found.number JOIN called_functions f ON f.number = b.function
ORDER BY found.key LIMIT 100000
"""


def parent_call_id(input_id: str) -> str:
    """`fc-X` of `in-X-7`; "" of ""."""
    return f"fc-{input_id[len('in-') :].rpartition('-')[0]}" if input_id else ""


def _key(number: int, index: int) -> int:
    return (number << _INDEX_BITS) + index


def _span(number: int) -> tuple[int, int]:
    return number << _INDEX_BITS, (number << _INDEX_BITS) + _INDEX_MASK


def _numbers(connection: sqlite3.Connection, call_ids: set[str]) -> dict[str, int]:
    numbers = {}
    for call_id in call_ids:
        row = connection.execute("SELECT number FROM calls WHERE call_id = ?", (call_id,)).fetchone()
        if row is not None:
            numbers[call_id] = row[0]
    return numbers


def _function_number(connection: sqlite3.Connection, function_id: str) -> int:
    row = connection.execute("SELECT number FROM called_functions WHERE function_id = ?", (function_id,)).fetchone()
    if row is not None:
        return int(row[0])
    added = connection.execute("INSERT INTO called_functions (function_id) VALUES (?)", (function_id,)).lastrowid
    assert added is not None
    return added


def _without_output(connection: sqlite3.Connection, number: int, rows: Sequence[NewInput]) -> Sequence[NewInput]:
    """Leave out what was sent again after it had finished."""
    if not rows:
        return rows
    low, high = min(row.index for row in rows), max(row.index for row in rows)
    done = connection.execute(
        "SELECT key FROM outputs WHERE key BETWEEN ? AND ?", (_key(number, low), _key(number, high))
    ).fetchall()
    if not done:
        return rows
    finished = {key & _INDEX_MASK for (key,) in done}
    return [row for row in rows if row.index not in finished]


def _insert(connection: sqlite3.Connection, insert: str, places: str, values: list[tuple[Any, ...]]) -> int:
    """Insert rows, as many as possible in one statement; how many were new."""
    count, at = 0, 0
    while len(values) - at >= _GROUP:
        flat = [field for value in values[at : at + _GROUP] for field in value]
        count += connection.execute(insert + ", ".join([places] * _GROUP), flat).rowcount
        at += _GROUP
    for value in values[at:]:
        count += connection.execute(insert + places, value).rowcount
    return count


def _delete_inputs(connection: sqlite3.Connection, keys: list[int]) -> None:
    at = 0
    while len(keys) - at >= _GROUP:
        marks = ", ".join("?" * _GROUP)
        connection.execute(f"DELETE FROM inputs WHERE key IN ({marks})", keys[at : at + _GROUP])  # noqa: S608 - marks
        at += _GROUP
    for key in keys[at:]:
        connection.execute("DELETE FROM inputs WHERE key = ?", (key,))


def _blobs_of(connection: sqlite3.Connection, keys: list[int]) -> list[str]:
    """The large values of these inputs. Costs nothing while no input of the table has one."""
    if not connection.execute("SELECT EXISTS (SELECT 1 FROM inputs WHERE blob != '')").fetchone()[0]:
        return []
    found = []
    for key in keys:
        found += connection.execute("SELECT blob FROM inputs WHERE key = ? AND blob != ''", (key,)).fetchall()
    return [blob for (blob,) in found]


def _drop_some(number: int, connection: sqlite3.Connection) -> tuple[bool, list[str]]:
    """Delete up to 5000 rows of a call; whether there may be more, and the large values that they named.

    The last step marks the call expired.
    """
    low, high = _span(number)
    gone: list[str] = []
    for table in ("outputs", "inputs"):
        gone += [
            blob
            for (blob,) in connection.execute(
                f"DELETE FROM {table} WHERE key IN (SELECT key FROM {table} WHERE key BETWEEN ? AND ? LIMIT 5000) "  # noqa: S608
                "RETURNING blob",
                (low, high),
            )
        ]
    if gone:
        return True, [blob for blob in gone if blob]
    connection.execute("UPDATE calls SET state = 2 WHERE number = ?", (number,))
    return False, []
