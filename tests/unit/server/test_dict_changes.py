"""What dicts change, and a crash at any moment: as test_queue_changes, by way of what clients ask."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.services.dict_table import Memory, Table
from intermodal.server.services.dicts import Dicts
from intermodal.server.services.values import Values
from intermodal.server.store import journal as journal_file
from intermodal.server.store.dicts import Entry
from intermodal.server.store.journal import BLOCK, NAMES, read_segment
from intermodal.server.store.store import Store
from modal._protocol.messages.dict import DictGet, DictPop, DictPut, DictValue
from modal._protocol.messages.object import Stored

Model = dict[bytes, bytes]
KEYS = [b"a", b"b", b"c", b"d"]


@pytest.fixture(autouse=True, scope="module")
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_file, "SEGMENT", 1 << 16)
        yield


class Asker:
    """A connection that asks one thing at a time."""

    closed = False

    def __init__(self, dicts: Dicts) -> None:
        self.dicts = dicts
        self.tokens = 0
        self._answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def respond(self, _stream_id: int, message: object) -> None:
        self._answer.set_result(message)

    async def ask(self, take: object, message: object) -> object:
        self._answer = asyncio.get_running_loop().create_future()
        take(self, 1, message)  # type: ignore[operator]
        return await self._answer

    def token(self) -> bytes:
        self.tokens += 1
        return b"%012d" % self.tokens

    async def put(self, model: Model, keys: list[bytes], new: bool) -> None:
        values = [b"%d-%d" % (self.tokens, index) for index in range(len(keys))]
        answer = await self.ask(self.dicts._take_put, DictPut("di-1", self.token(), keys, values, skip_if_exists=new))
        stored = not (new and keys[0] in model)
        assert answer == Stored(stored)
        if stored:
            model.update(zip(keys, values, strict=True))

    async def pop(self, model: Model, key: bytes) -> None:
        token = self.token()
        answer = await self.ask(self.dicts._take_pop, DictPop("di-1", key, token))
        assert isinstance(answer, DictValue)
        assert (answer.found, answer.value) == (key in model, model.pop(key, b""))
        self.dicts.received([token])

    async def get(self, model: Model, key: bytes) -> None:
        answer = await self.ask(self.dicts._take_get, DictGet("di-1", key))
        assert isinstance(answer, DictValue)
        assert (answer.found, answer.value) == (key in model, model.get(key, b""))


def stored(folder: Path) -> Model:
    connection = sqlite3.connect(folder / "store.sqlite")
    try:
        return dict(connection.execute("SELECT key, value FROM dict_entries").fetchall())
    finally:
        connection.close()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "new", "pop", "get", "update", "clear", "settle", "forget", "reopen"]),
        st.sampled_from(KEYS),
    ),
    min_size=1,
    max_size=20,
)


async def live(folder: Path, steps: list[tuple[str, bytes]]) -> list[Model]:
    """What there was after each change; the directory as it was before the end goes to `crashed`."""

    async def find(_object_id: str) -> int:
        return 7

    store = await Store.open(folder / "store.sqlite")
    dicts = Dicts(store.dicts, store.behind, Values(folder, store.dicts.blobs_in_use), find)
    asker = Asker(dicts)
    model: Model = {}
    states: list[Model] = [{}]
    for name, key in steps:
        if name == "put":
            await asker.put(model, [key], False)
        elif name == "new":
            await asker.put(model, [key], True)
        elif name == "update":
            await asker.put(model, [other for other in KEYS if other >= key], False)
        elif name == "pop":
            await asker.pop(model, key)
        elif name == "get":
            await asker.get(model, key)
        elif name == "clear":
            await dicts.clear("di-1")
            model.clear()
        elif name == "settle":
            await store.behind.settle()
            assert stored(folder) == model
        elif name == "forget" and "di-1" in dicts._tables:
            dicts._tables["di-1"].shrink(-1)
        elif name == "reopen":
            await store.behind.settle()
            dicts._tables.clear()
        states.append(dict(model))
        assert await dicts.length("di-1") == len(model)
    shutil.copytree(folder, folder.with_name("crashed"))
    await store.close()
    assert stored(folder) == model
    return states


@settings(max_examples=int(os.environ.get("INTERMODAL_WALK_EXAMPLES", "25")), deadline=None)
@given(STEPS, st.data())
def test_a_crash_with_a_journal_that_is_torn_anywhere(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("life") / "home"
    folder.mkdir()
    states = asyncio.run(live(folder, steps))
    crashed = folder.with_name("crashed")
    path = crashed / NAMES[0]
    found = read_segment(path, _server_id(crashed))
    if found is not None:
        end = BLOCK + sum(24 + len(record.content) for record in found.records)
        cut = data.draw(st.integers(BLOCK, end), label="cut")
        content = path.read_bytes()
        path.write_bytes(content[:cut] + bytes(len(content) - cut))
        asyncio.run(_reopen(crashed))
        assert stored(crashed) in states
        if cut == end:
            assert stored(crashed) == states[-1]


async def _reopen(folder: Path) -> None:
    store = await Store.open(folder / "store.sqlite")
    await store.close()


def _server_id(folder: Path) -> str:
    connection = sqlite3.connect(folder / "store.sqlite")
    try:
        return str(connection.execute("SELECT value FROM meta WHERE key = 'server_id'").fetchone()[0]).strip('"')
    finally:
        connection.close()


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 5), st.integers(0, 50)), min_size=1, max_size=4, unique_by=lambda pair: pair[0]
        )
    )
)
def test_what_a_table_takes_is_counted(updates: list[list[tuple[int, int]]]) -> None:
    memory = Memory()
    table = Table(1, memory, blobs=False)
    for number, update in enumerate(updates):
        keys = [b"key-%d" % key for key, _size in update]
        entries = [Entry(b"x" * size, "", size, 0.0) for _key, size in update]
        undo = table.put(keys, entries, b"%08d" % number)
        if number % 3 == 1:
            table.restore(undo)
        elif number % 3 == 2 and isinstance(found := table.known[keys[0]], Entry):
            table.remove(keys[0], found, b"%08d" % number)
        kept = [(key, entry) for key, entry in table.known.items() if entry is not None]
        assert memory.used == sum(300 + len(key) + len(entry.value) for key, entry in kept)


@pytest.mark.parametrize("stored", [False, True])
def test_a_large_value_that_is_replaced_goes_at_once_unless_the_store_has_it(stored: bool) -> None:
    table = Table(1, Memory(), blobs=True)
    table.put([b"small", b"large"], [Entry(b"x", "", 1, 0.0), Entry(b"", "vl-1", 1 << 20, 0.0)], b"first...")
    if stored:
        table.collect()
        table.stored()
    table.put([b"small", b"large"], [Entry(b"y", "", 1, 0.0), Entry(b"y", "", 1, 0.0)], b"second..")
    assert table.gone == ([] if stored else ["vl-1"])
