"""What queues change, and a crash at any moment: the store then holds what was acknowledged, and no half of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.partition import Partition
from intermodal.server.store import journal as journal_file
from intermodal.server.store.journal import BLOCK, NAMES, read_segment
from intermodal.server.store.store import Store

Model = dict[str, Any]  # items by place, what is lent by token


@pytest.fixture(autouse=True, scope="module")
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_file, "SEGMENT", 1 << 16)
        yield


class Life:
    """One partition that a server changes, and after each change what a reader of the store should find."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes = Changes(store.queues, store.behind)
        self.partition = Partition(_Queue, b"key", 1)
        self.items: dict[int, bytes] = {}
        self.lent: dict[bytes, list[tuple[int, int]]] = {}
        self.states: list[Model] = [self.state()]
        self.tokens = 0

    def state(self) -> Model:
        return {"items": dict(self.items), "lent": {token: list(ranges) for token, ranges in self.lent.items()}}

    def changed(self) -> Any:
        """Note the state after a change."""
        self.states.append(self.state())
        return _durable

    def token(self) -> bytes:
        self.tokens += 1
        return b"%012d" % self.tokens

    def put(self, count: int) -> None:
        first = self.partition.append(count)
        values = [b"%d" % (first + index) for index in range(count)]
        self.items.update({first + index: value for index, value in enumerate(values)})
        made = None if self.partition.stored else (7, b"key", 1e10)
        self.partition.stored = True
        self.changes.put(self.partition, made, None, first, values, self.token(), self.changed())

    def lend(self, count: int) -> None:
        ranges = self.partition.take(count)
        if ranges:
            self._lend(ranges)

    def _lend(self, ranges: list[tuple[int, int]]) -> None:
        token = self.token()
        self.partition.busy += 1
        self.lent[token] = ranges
        self.changes.lend(self.partition, token, ranges, self.changed())

    def confirm(self, index: int) -> None:
        if self._confirmed(index):
            self.changes.flush()
            self.changed()

    def confirm_and_lend(self, index: int) -> None:
        """A consumer in a loop: its next request says that it has what it was lent, and both are one record."""
        lent, ranges = bool(self.lent), self.partition.take(1)
        if ranges:
            self._confirmed(index)
            self._lend(ranges)
        elif lent:
            self.confirm(index)

    def _confirmed(self, index: int) -> bool:
        if self.lent:
            token = list(self.lent)[index % len(self.lent)]
            ranges = self.lent.pop(token)
            for first, last in ranges:
                for place in range(first, last + 1):
                    del self.items[place]
            self.changes.confirm(self.partition, ranges, token, False)
            return True
        return False

    def take_back(self, index: int) -> None:
        if self.lent:
            token = list(self.lent)[index % len(self.lent)]
            self.partition.give_back(self.lent.pop(token))
            self.changes.take_back(self.partition, token)
            self.changed()

    def clear(self, _argument: int) -> None:
        ranges = self.partition.clear()
        if ranges:
            for first, last in ranges:
                for place in range(first, last + 1):
                    del self.items[place]
            self.changes.delete(self.partition, ranges, self.changed())


def _durable(error: Exception | None) -> None:
    assert error is None


class _Queue:
    number = 7


def stored(folder: Path) -> Model:
    connection = sqlite3.connect(folder / "store.sqlite")
    try:
        items = connection.execute("SELECT key & 4294967295, value FROM queue_items").fetchall()
        lent = connection.execute("SELECT token, ranges FROM queue_taken").fetchall()
    finally:
        connection.close()
    return {
        "items": dict(items),
        "lent": {token: [(first, last) for first, last in json.loads(ranges)] for token, ranges in lent},
    }


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "put",
                "put",
                "lend",
                "confirm",
                "confirm_and_lend",
                "confirm_and_lend",
                "take_back",
                "clear",
                "settle",
                "sync",
            ]
        ),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=25,
)


async def live(folder: Path, steps: list[tuple[str, int]]) -> Life:
    """Then crash: the directory as it was goes to `crashed`, before anything is ended in order."""
    store = await Store.open(folder / "store.sqlite")
    life = Life(store)
    for name, argument in steps:
        if name == "settle":
            await store.behind.settle()
            assert stored(folder) == life.state()
        elif name == "sync":
            await _synced(store)
        else:
            getattr(life, name)(argument)
    await _synced(store)
    shutil.copytree(folder, folder.with_name("crashed"))
    await store.close()
    assert stored(folder) == life.state()
    return life


async def _synced(store: Store) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    store.behind.append("take-back", (b"nobody",), lambda _error: waiter.set_result(None))
    await waiter


@settings(max_examples=int(os.environ.get("INTERMODAL_WALK_EXAMPLES", "25")), deadline=None)
@given(STEPS, st.data())
def test_a_crash_with_a_journal_that_is_torn_anywhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("life") / "home"
    folder.mkdir()
    life = asyncio.run(live(folder, steps))
    crashed = folder.with_name("crashed")
    path = crashed / NAMES[0]
    found = read_segment(path, _server_id(crashed))
    assert found is not None
    end = BLOCK + sum(24 + len(record.content) for record in found.records)
    cut = data.draw(st.integers(BLOCK, end), label="cut")
    content = path.read_bytes()
    path.write_bytes(content[:cut] + bytes(len(content) - cut))
    left = read_segment(path, _server_id(crashed))
    assert left is not None
    asyncio.run(_reopen(crashed))
    after = stored(crashed)
    assert after in life.states
    if cut == end:
        assert after == life.states[-1]


async def _reopen(folder: Path) -> None:
    store = await Store.open(folder / "store.sqlite")
    await store.close()


def _server_id(folder: Path) -> str:
    connection = sqlite3.connect(folder / "store.sqlite")
    try:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'server_id'").fetchone()[0]).strip('"')
    finally:
        connection.close()
