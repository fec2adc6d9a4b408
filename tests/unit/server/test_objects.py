"""What becomes of dicts, queues and their contents with time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from intermodal.server.principal import Principal, Role
from intermodal.server.queues.queues import Queues
from intermodal.server.services.dict_table import UNKNOWN, Memory, Table
from intermodal.server.services.dicts import IDLE_SECONDS, TOUCH_STEP, Dicts
from intermodal.server.services.objects import HEARD_WITHIN, Objects
from intermodal.server.services.values import Values
from intermodal.server.store.dicts import Entry
from intermodal.server.store.environments import Environment
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.dict import DictGet, DictPut, DictScan
from modal._protocol.messages.object import Received, Stored
from modal._protocol.messages.queue import QueueGet, QueuePut

MAIN = Environment("en-1", "main", "", True)
OWNER = Principal(Role.OWNER, "ada")


class Peer:
    """A connection that keeps what it is answered."""

    def __init__(self) -> None:
        self.closed = self.direct = False
        self.on_close: list[object] = []
        self.on_cancel = None
        self.answers: dict[int, object] = {}
        self.told = asyncio.Event()

    def respond(self, stream_id: int, message: object) -> None:
        self.answers[stream_id] = message
        self.told.set()

    fail = respond

    async def answer(self, stream_id: int) -> object:
        while stream_id not in self.answers:
            self.told.clear()
            await self.told.wait()
        return self.answers.pop(stream_id)


class Parts:
    def __init__(self, store: Store, directory: Path) -> None:
        self.now = 1e9
        self.store = store
        self.objects = Objects(store.objects, self.time)
        self.values = Values(directory, store.dicts.blobs_in_use)
        self.dicts = Dicts(
            store.dicts, store.behind, self.values, lambda id: self.objects.number("dict", id), self.time
        )
        self.queues = Queues(store.queues, store.behind, lambda id: self.objects.number("queue", id), self.time)
        self.objects.on_dropped = {"dict": self.dicts.dropped, "queue": self.queues.dropped}
        self.peer = Peer()
        self.tokens = 0

    def time(self) -> float:
        return self.now

    async def new(self, kind: str, name: str = "n", principal: Principal = OWNER) -> str:
        return (await self.objects.open(kind, MAIN, name, True, principal)).object_id

    async def put(self, dict_id: str, key: bytes, value: bytes = b"v", blob: str = "") -> None:
        message = DictPut(dict_id, b"t" * 12, [key], [value], [blob] if blob else [])
        assert await self.write(message) == Stored(True)

    async def write(self, message: DictPut) -> object:
        self.dicts._take_put(self.peer, 1, message)  # type: ignore[arg-type]
        return await self.peer.answer(1)

    async def has(self, dict_id: str, key: bytes) -> bool:
        self.dicts._take_get(self.peer, 1, DictGet(dict_id, key))  # type: ignore[arg-type]
        return bool((await self.peer.answer(1)).found)  # type: ignore[attr-defined]

    async def enqueue(self, queue_id: str, partition: bytes, ttl: float = 100.0) -> object:
        self.tokens += 1
        message = QueuePut(queue_id, partition, b"%012d" % self.tokens, [b"item"], ttl)
        self.queues._take_put(self.peer, 2, message)  # type: ignore[arg-type]
        return await self.peer.answer(2)

    async def dequeue(self, queue_id: str, partition: bytes) -> list[bytes]:
        self.tokens += 1
        self.queues._take_get(self.peer, 3, QueueGet(queue_id, partition, b"%012d" % self.tokens))  # type: ignore[arg-type]
        answer = await self.peer.answer(3)
        if isinstance(answer, Fault):
            raise answer
        return list(answer.items)  # type: ignore[attr-defined]


@pytest.fixture
async def parts(store: Store, tmp_path: Path) -> Parts:
    values = tmp_path / "values"
    values.mkdir()
    made = Parts(store, values)
    await made.dicts.open()
    await made.queues.open()
    return made


async def test_entries_expire_when_nobody_uses_them(parts: Parts) -> None:
    dict_id = await parts.new("dict")
    blob = "vl-" + "a" * 22
    parts.values.path(blob).write_bytes(b"large")
    await parts.put(dict_id, b"read", b"1")
    await parts.put(dict_id, b"forgotten", b"2")
    await parts.put(dict_id, b"large", b"", blob)
    parts.now += IDLE_SECONDS - 10
    assert await parts.has(dict_id, b"read")
    await parts.dicts._notes.write()  # what happens a few seconds later
    parts.now += TOUCH_STEP + 20
    assert not await parts.has(dict_id, b"forgotten")
    assert await parts.has(dict_id, b"read")
    assert (await parts.dicts._scan(parts.peer, DictScan(dict_id))).keys == [b"read"]  # type: ignore[arg-type]
    assert await parts.dicts.length(dict_id) == 1
    assert parts.values.path(blob).exists()
    assert await parts.dicts.sweep() == 2
    assert not parts.values.path(blob).exists()
    parts.now += IDLE_SECONDS / 2
    assert await parts.has(dict_id, b"read")
    await parts.dicts.close()  # notes what was read
    other = Dicts(
        parts.store.dicts, parts.store.behind, parts.values, lambda id: parts.objects.number("dict", id), parts.time
    )
    parts.now += IDLE_SECONDS - 10
    assert await other.length(dict_id) == 1


async def test_what_is_counted_is_limited(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.server.services.dicts.MAX_LEN", 3)
    dict_id = await parts.new("dict")
    for number in range(5):
        await parts.put(dict_id, b"%d" % number)
    assert await parts.dicts.length(dict_id) == 3  # wholly in memory
    parts.dicts._tables[dict_id].complete = False
    assert await parts.dicts.length(dict_id) == 3


async def test_nobody_hears_of_a_change_before_it_is_durable(parts: Parts) -> None:
    dict_id = await parts.new("dict")
    await parts.put(dict_id, b"k", b"old")
    parts.dicts._take_put(parts.peer, 1, DictPut(dict_id, b"u" * 12, [b"k"], [b"new"]))  # type: ignore[arg-type]
    parts.dicts._take_get(parts.peer, 2, DictGet(dict_id, b"k"))  # type: ignore[arg-type]
    assert parts.peer.answers == {}
    assert (await parts.peer.answer(2)).value == b"new"  # type: ignore[attr-defined]
    assert await parts.peer.answer(1) == Stored(True)


async def test_an_expired_key_may_be_taken_anew(parts: Parts) -> None:
    dict_id = await parts.new("dict")
    await parts.put(dict_id, b"lock")
    message = DictPut(dict_id, b"u" * 12, [b"lock"], [b"mine"], skip_if_exists=True)
    assert await parts.write(message) == Stored(False)
    parts.now += IDLE_SECONDS + TOUCH_STEP + 1
    assert await parts.write(message) == Stored(True)
    message.again = True
    assert await parts.write(message) == Stored(True)


async def test_ephemeral_objects_live_as_long_as_somebody_speaks_of_them(parts: Parts) -> None:
    kept, lost, named = await parts.new("dict", ""), await parts.new("queue", ""), await parts.new("queue")
    parts.now += HEARD_WITHIN - 1
    await parts.objects.keep(kept)
    parts.now += 2
    assert await parts.objects.sweep(lambda _app_id: True) == 1
    await parts.objects.get("dict", kept)
    await parts.objects.get("queue", named)
    with pytest.raises(Fault) as gone:
        await parts.objects.get("queue", lost)
    assert gone.value.code == Code.NOT_FOUND


async def test_ephemeral_objects_of_a_container_end_with_its_app(parts: Parts) -> None:
    container = Principal(Role.CONTAINER, "ta-1", app_id="ap-1")
    queue_id = await parts.new("queue", "", container)
    assert await parts.objects.sweep(lambda app_id: app_id == "ap-1") == 0
    assert await parts.objects.sweep(lambda app_id: app_id != "ap-1") == 1
    with pytest.raises(Fault, match="does not exist"):
        await parts.dequeue(queue_id, b"")


async def test_partitions_expire_each_at_its_time(parts: Parts) -> None:
    queue_id = await parts.new("queue")
    await parts.enqueue(queue_id, b"a", 10)
    await parts.enqueue(queue_id, b"b", 1000)
    parts.now += 9
    await parts.enqueue(queue_id, b"a", 10)  # the last put counts
    parts.now += 9
    assert await parts.queues.length(queue_id, b"a", False) == 2
    await parts.enqueue(queue_id, b"b", 5)  # a lower one may be set
    parts.now += 6
    assert await parts.dequeue(queue_id, b"a") == []
    assert await parts.dequeue(queue_id, b"b") == []
    assert await parts.queues.lengths(queue_id) == []


async def test_partitions_that_are_not_in_memory_expire_too(parts: Parts, store: Store) -> None:
    queue_id = await parts.new("queue")
    await parts.enqueue(queue_id, b"a", 10)
    await parts.enqueue(queue_id, b"b", 1000)
    parts.queues.close()
    await store.behind.settle()
    again = Queues(store.queues, store.behind, lambda id: parts.objects.number("queue", id), parts.time)
    await again.open()
    parts.now += 500
    assert await again.sweep() == 1
    assert [key for key, _count in await again.lengths(queue_id)] == [b"b"]


async def test_the_number_of_partitions_is_limited(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.server.queues.partitions.MAX_PARTITIONS", 3)
    queue_id = await parts.new("queue")
    for key in (b"a", b"b", b"c"):
        assert await parts.enqueue(queue_id, key) == Stored(True)
    refused = await parts.enqueue(queue_id, b"d")
    assert isinstance(refused, Fault)
    assert refused.code == Code.EXHAUSTED
    await parts.queues.clear(queue_id, b"a", False)
    await parts.store.behind.settle()
    parts.queues._partitions._loaded.clear()  # as when they were not used for long
    (await parts.queues._partitions.queue(queue_id)).loaded.clear()
    assert await parts.enqueue(queue_id, b"d") == Stored(True)


async def test_partitions_leave_memory_and_come_back(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.server.queues.partitions.MAX_LOADED", 20)
    queue_id = await parts.new("queue")
    for number in range(200):
        assert await parts.enqueue(queue_id, b"%d" % number) == Stored(True)
        if number % 10 == 0:
            await parts.store.behind.settle()
    loaded = parts.queues._partitions.all()
    assert len(loaded) < 30
    assert set((await parts.queues._partitions.queue(queue_id)).loaded) == {partition.key for partition in loaded}
    for number in range(200):
        assert await parts.dequeue(queue_id, b"%d" % number) == [b"item"]


async def test_a_queue_that_is_larger_than_memory(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal.server.queues.changes.MAX_MEMORY", 10_000)
    monkeypatch.setattr("intermodal.server.queues.lending.READ_AHEAD", 7)
    queue_id = await parts.new("queue")
    items = [b"%03d" % number * 300 for number in range(100)]
    for number in range(0, 100, 10):
        put = QueuePut(queue_id, b"", b"put %08d" % number, items[number : number + 10])
        parts.queues._take_put(parts.peer, 2, put)  # type: ignore[arg-type]
        assert await parts.peer.answer(2) == Stored(True)
    await parts.store.behind.settle()
    (partition,) = parts.queues._partitions.all()
    assert partition.contents.bytes <= 10_000
    got: list[bytes] = []
    for count in (1, 1, 30, 1, 67):
        token = b"get %08d" % len(got)
        get = QueueGet(queue_id, b"", token, count)
        parts.queues._take_get(parts.peer, 3, get)  # type: ignore[arg-type]
        answer = await parts.peer.answer(3)
        got += answer.items  # type: ignore[attr-defined]
        parts.queues.received(parts.peer, Received("queue", [token]))  # type: ignore[arg-type]
    assert got == items
    parts.queues._changes.flush()
    await parts.store.behind.settle()
    assert await parts.store.database.row("SELECT count(*) FROM queue_items") == (0,)
    assert partition.contents.bytes == 0


async def test_what_a_direct_client_has_read_may_still_be_given_back(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    monkeypatch.setattr("intermodal.server.queues.arrivals.LOOK_DELAY", 0.0)
    monkeypatch.setattr(
        "intermodal.server.queues.arrivals.is_read", lambda connection: looked.append(connection) or len(looked) > 3
    )
    parts.peer.direct = True
    queue_id = await parts.new("queue")
    await parts.enqueue(queue_id, b"")
    assert await parts.dequeue(queue_id, b"") == [b"item"]
    parts.queues.received(parts.peer, Received("queue", [b"%012d" % parts.tokens], give_back=True))  # type: ignore[arg-type]
    assert await parts.queues.length(queue_id, b"", False) == 1
    assert await parts.dequeue(queue_id, b"") == [b"item"]
    while len(looked) < 4:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    parts.queues._changes.flush()
    await parts.store.behind.settle()
    assert await parts.store.database.row("SELECT count(*) FROM queue_items") == (0,)
    assert await parts.store.database.row("SELECT count(*) FROM queue_taken") == (0,)


async def test_deleting_an_environment_deletes_what_is_in_it(parts: Parts) -> None:
    dict_id, queue_id = await parts.new("dict"), await parts.new("queue")
    await parts.put(dict_id, b"k")
    await parts.enqueue(queue_id, b"")
    await parts.objects.delete_environment(MAIN)
    for task in [*parts.dicts._tasks, *parts.queues._peers._tasks]:
        await task
    for table in ("objects", "dict_entries", "queue_partitions", "queue_items"):
        assert await parts.store.database.row(f"SELECT count(*) FROM {table}") == (0,)


def test_tables_are_bounded() -> None:
    memory = Memory()
    table = Table(1, memory, False)
    entries = [(b"%d" % number, Entry(bytes(1000), "", 1000, 0.0)) for number in range(100)]
    table.learn(entries, complete=True)
    assert table.get(b"nothing") is None
    table.put([b"0"], [entries[0][1]], b"token")
    table.shrink(50_000)
    assert 40_000 < memory.used <= 50_000
    assert table.get(b"0") == entries[0][1]  # the store does not have it yet
    assert table.get(b"1") is UNKNOWN
    assert table.get(b"nothing") is UNKNOWN
    table.forget()
    assert memory.used == 0


def test_a_change_that_could_not_be_noted_is_undone() -> None:
    table = Table(1, Memory(), False)
    old, new, newer = (Entry(value, "", 3, 0.0) for value in (b"old", b"new", b"newer"))
    table.learn([(b"a", old)], complete=True)
    undo = table.put([b"a", b"b"], [new, new], b"1")
    table.restore(undo)
    assert (table.get(b"a"), table.get(b"b")) == (old, None)
    assert table.collect().rows == []
    table.stored()
    first = table.put([b"a"], [new], b"1")
    table.put([b"a"], [newer], b"2")
    table.restore(first)
    assert table.get(b"a") == newer
    removed = table.remove(b"a", newer, b"3")
    table.collect()  # the store is told before it is known that it failed
    table.restore(removed)
    table.stored()
    assert table.get(b"a") == newer
    assert [row[:2] for row in table.collect().rows] == [(b"a", b"newer")]
