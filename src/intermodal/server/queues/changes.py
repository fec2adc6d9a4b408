"""Changes of queues: in memory at once, answered when they are in the journal, in the store a little later.

That items arrived need not be on the disk at once: it goes with the next change, or after CONFIRM_DELAY. A server that
dies in between hands these items out again, unless their client confirms them once more.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from intermodal.server.queues.contents import Make
from intermodal.server.queues.partition import Partition
from intermodal.server.store import queues as sql
from intermodal.server.store.queues import QueueStore, Ranges
from intermodal.server.store.write_behind import WriteBehind
from modal._protocol.errors import Fault

CONFIRM_DELAY = 0.05  # seconds: longer than a consumer in a loop takes until its next get
MAX_MEMORY = 64 << 20  # bytes of items that the store has too and that are in memory

Done = Callable[["Exception | None"], None]
Confirmed = tuple[Partition, Ranges, bytes, bool]


class Changes:
    """`done(error)` is called once a change is durable; where that failed the caller undoes it in memory."""

    def __init__(self, store: QueueStore, behind: WriteBehind) -> None:
        self._store = store
        self._behind = behind
        self._loop = asyncio.get_running_loop()
        self._changed: dict[Partition, None] = {}
        self._holding: dict[Partition, None] = {}  # partitions with items in memory
        self._confirmed: list[Confirmed] = []
        self._timer: asyncio.TimerHandle | None = None
        behind.sources.append(self)

    # -- what happens
    def put(
        self,
        partition: Partition,
        made: Make | None,
        kept_until: float | None,
        first: int,
        items: list[bytes],
        token: bytes,
        done: Done,
    ) -> None:
        contents = partition.contents
        self._behind.append("put", (partition.number, made, kept_until, first, items, token), done)
        if made is not None:
            contents.made = made
        elif kept_until is not None:
            contents.kept_until = kept_until
        contents.put(first, items, token)
        self._changed[partition] = None
        self._holding[partition] = None

    def undo_put(self, partition: Partition, first: int, count: int) -> None:
        """It could not be written."""
        fresh = first >= partition.contents.fresh
        partition.contents.delete([(first, first + count - 1)])
        self._changed[partition] = None
        if fresh:
            partition.undo_append(first, count)

    def lend(self, partition: Partition, token: bytes, ranges: Ranges, done: Done) -> None:
        arguments: tuple[Any, ...] = (partition.number, token, ranges)
        if self._confirmed:
            arguments = (*arguments, self._take_confirmed())
        self._behind.append("lend", arguments, done)
        partition.contents.take(token, ranges)
        self._changed[partition] = None

    def take_back(self, partition: Partition, token: bytes) -> None:
        """What was lent did not arrive."""
        partition.contents.drop_token(token)
        self._changed[partition] = None
        self._try("take-back", (token,))

    def delete(self, partition: Partition, ranges: Ranges, done: Done) -> None:
        self._behind.append("delete", (partition.number, ranges), done)
        partition.contents.delete(ranges)
        self._changed[partition] = None

    def confirm(self, partition: Partition, ranges: Ranges, token: bytes, old: bool) -> None:
        """These items have arrived; `old`: some were put before the server began."""
        self._confirmed.append((partition, ranges, token, old))
        if self._timer is None:
            self._timer = self._loop.call_later(CONFIRM_DELAY, self.flush)

    def flush(self) -> None:
        """Note what has arrived."""
        self._timer = None
        for record in self._take_confirmed():
            self._try("confirm", record)

    def _take_confirmed(self) -> list[tuple[int, bytes, Ranges, bool]]:
        """Carry out in memory what was confirmed; the records that say so."""
        confirmed, self._confirmed = self._confirmed, []
        records = []
        for partition, ranges, token, old in confirmed:
            partition.contents.confirm(token, ranges, old)
            partition.busy -= 1
            self._changed[partition] = None
            records.append((partition.number, token, ranges, old))
        return records

    def _try(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Should it not be written, the store hears of it all the same, unless the server dies before."""
        try:
            self._behind.append(name, arguments, _ignored)
        except Fault:
            return

    # -- the store
    async def run(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        """In the order of all that went to the store before; what the journal alone has it does not see."""
        return await self._store.run(work)

    async def settle(self, partition: Partition) -> None:
        """Let the store know all of it."""
        if self._confirmed:
            self.flush()
        if not partition.contents.known:
            await self._behind.settle()

    async def settle_all(self) -> None:
        """As `settle`, of all partitions."""
        if self._confirmed:
            self.flush()
        await self._behind.settle()

    def forget(self, partition: Partition) -> None:
        """Its queue was deleted."""
        self._holding.pop(partition, None)

    def keep(self, partition: Partition, rows: list[tuple[int, bytes, bytes]]) -> None:
        """Items that were read from the store."""
        partition.contents.keep(rows)
        self._holding[partition] = None

    def collect(self) -> tuple[Callable[[sqlite3.Connection], Any], Callable[[Any], None]] | None:
        """See Source."""
        if self._confirmed:
            self.flush()
        if not self._changed:
            return None
        changed, self._changed = self._changed, {}
        jobs = [partition.contents.collect(partition.number, partition.next) for partition in changed]

        def work(connection: sqlite3.Connection) -> None:
            for job in jobs:
                sql.apply(connection, job)

        return work, partial(self._applied, changed)

    def _applied(self, partitions: dict[Partition, None], _result: Any) -> None:
        for partition in partitions:
            partition.contents.settled()
        self._shrink()

    def _shrink(self) -> None:
        """Keep as much in memory as may be."""
        self._holding = {partition: None for partition in self._holding if partition.contents.items}
        if sum(partition.contents.bytes for partition in self._holding) > MAX_MEMORY:
            for partition in self._holding:
                partition.contents.shrink(MAX_MEMORY // len(self._holding))


def _ignored(_error: Exception | None) -> None:
    return
