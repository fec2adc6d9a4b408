"""The journal: what was acknowledged is read again, whatever a power cut has left of the rest."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.store import journal as journal_file
from intermodal.server.store.journal import BLOCK, NAMES, Journal, read, read_segment
from modal._protocol.errors import Code, Fault

SIZE = 1 << 16


@pytest.fixture(autouse=True, scope="module")
def small_files() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_file, "SEGMENT", SIZE)
        yield


async def write(folder: Path, contents: list[bytes], last: int = 0) -> None:
    """One journal's life: all records in it, one by one on the disk."""
    journal = Journal(folder, "sv-1", last)
    for content in contents:
        await append(journal, content)
    await journal.close()


async def append(journal: Journal, content: bytes) -> int:
    """Returns when it is on the disk."""
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: Exception | None) -> None:
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)

    number = journal.append(content, done)
    await waiter
    return number


def contents(folder: Path, applied: int = 0, store: str = "sv-1") -> list[bytes]:
    return [record.content for record in read(folder, store, applied)]


async def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert contents(tmp_path) == []
    await write(tmp_path, [b"a", b"b" * 10_000, b"c"])
    assert contents(tmp_path) == [b"a", b"b" * 10_000, b"c"]
    assert contents(tmp_path, applied=2) == [b"c"]
    assert contents(tmp_path, store="sv-2") == []


async def test_files_get_their_size_when_there_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "QUIET", 0.001)
    monkeypatch.setattr(journal_file, "CHUNK", 10_000)
    journal = Journal(tmp_path, "sv-1", 0)
    number = 0
    while any((tmp_path / name).stat().st_size < SIZE for name in NAMES) if number else True:
        number = await append(journal, b"x" * 10)
        await asyncio.sleep(0.002)
    await journal.close()
    assert contents(tmp_path) == [b"x" * 10] * number


async def test_what_comes_during_a_write_is_written_together(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "sv-1", 0)
    await append(journal, b"first")
    before = journal.syncs
    done: list[int] = []
    for number in range(200):
        journal.append(b"x", lambda _error, number=number: done.append(number))  # type: ignore[misc]
    await append(journal, b"last")
    assert done == list(range(200))
    assert journal.syncs - before == 1
    await journal.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=6), st.data())
def test_a_tail_that_is_torn_anywhere_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    asyncio.run(write(folder, records))
    path = folder / NAMES[0]
    whole = path.read_bytes()
    ends = [BLOCK]
    for content in records:
        ends.append(ends[-1] + 24 + len(content))
    cut = data.draw(st.integers(BLOCK, ends[-1]))
    kind = data.draw(st.sampled_from(["zeros", "end", "noise"]))
    rest = {"zeros": bytes(ends[-1] - cut), "end": b"", "noise": random.Random(cut).randbytes(ends[-1] - cut)}[kind]
    path.write_bytes(whole[:cut] + rest + (b"" if kind == "end" else whole[ends[-1] :]))
    while rest[:1] and rest[:1] == whole[cut : cut + 1]:  # by chance it is what was written there
        cut, rest = cut + 1, rest[1:]
    assert contents(folder) == records[: sum(end <= cut for end in ends) - 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, BLOCK + 200), st.integers(1, 255))
def test_a_damaged_byte_never_makes_another_record(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    records = [bytes([number]) * 30 for number in range(1, 5)]
    asyncio.run(write(folder, records))
    path = folder / NAMES[0]
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= change
    path.write_bytes(damaged)
    found = contents(folder)
    assert found == records[: len(found)]


async def test_what_an_earlier_use_of_a_file_left_is_no_record(tmp_path: Path) -> None:
    await write(tmp_path, [b"old" * 10] * 5)
    await write(tmp_path, [b"new" * 10], last=5)  # lies where the first old one was
    assert contents(tmp_path, applied=5) == [b"new" * 10]
    segment = read_segment(tmp_path / NAMES[0], "sv-1")
    assert segment is not None
    assert [record.number for record in segment.records] == [6]


async def test_an_older_copy_of_the_store_gets_nothing_that_does_not_join_on(tmp_path: Path) -> None:
    await write(tmp_path, [b"a", b"b"], last=10)
    assert contents(tmp_path, applied=10) == [b"a", b"b"]
    assert contents(tmp_path, applied=11) == [b"b"]
    assert contents(tmp_path, applied=7) == []


async def test_files_take_turns_and_wait_for_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "SEGMENT", BLOCK + 4000)
    journal = Journal(tmp_path, "sv-1", 0)
    for number in range(1, 7):  # three in each file
        assert await append(journal, bytes([number]) * 1000) == number
    waiting = asyncio.create_task(append(journal, b"g" * 1000))
    await asyncio.sleep(0)
    assert [content[0] for content in contents(tmp_path)] == [1, 2, 3, 4, 5, 6]
    journal.stuck(Fault(Code.EXHAUSTED, "full"))
    with pytest.raises(Fault, match="full"):
        await waiting
    assert len(contents(tmp_path)) == 6  # nothing that was acknowledged is lost
    waiting = asyncio.create_task(append(journal, b"h" * 1000))
    await asyncio.sleep(0)
    journal.release(3)
    assert await waiting == 8  # 7 never was
    assert [content[0] for content in contents(tmp_path, applied=3)] == [4, 5, 6, ord("h")]
    await journal.close()


async def test_a_full_disk_is_said_and_over_when_it_is_over(tmp_path: Path) -> None:
    (tmp_path / NAMES[0]).symlink_to("/dev/full")
    journal = Journal(tmp_path, "sv-1", 0)
    with pytest.raises(Fault, match="free some space and try again") as caught:
        await append(journal, b"a")
    assert caught.value.code == Code.EXHAUSTED
    (tmp_path / NAMES[0]).unlink()
    await append(journal, b"b")
    await journal.close()
    assert contents(tmp_path) == [b"b"]


async def test_on_a_quick_disk_nobody_waits_for_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_file, "QUICK", 60.0)
    monkeypatch.setattr(journal_file, "QUICK_WRITES", 3)
    journal = Journal(tmp_path, "sv-1", 0)
    threads: list[str] = []
    write = journal._write

    def noting(group: list[Any], size: int) -> None:
        threads.append(threading.current_thread().name)
        write(group, size)

    monkeypatch.setattr(journal, "_write", noting)
    journal._unfilled = 0
    for number in range(6):
        await append(journal, b"%d" % number)
    main = threading.current_thread().name
    assert threads == ["journal"] * 3 + [main] * 3
    before = journal.syncs
    for _ in range(20):  # of many clients, in one turn of the loop
        journal.append(b"x", lambda _error: None)
    await append(journal, b"y")
    assert (threads[6:], journal.syncs - before) == ([main], 1)
    monkeypatch.setattr(journal_file, "QUICK", 0.0)  # from now on every write is a slow one
    for number in range(4):
        await append(journal, b"%d" % number)
    assert threads[7:] == [main, main, "journal", "journal"]  # 7 quick ones, then 3, then 1
    monkeypatch.setattr(journal_file, "QUICK", 60.0)
    monkeypatch.setattr(journal_file, "HERE", 10)
    for number in range(4):
        await append(journal, b"%d" % number)
    assert threads[11:] == ["journal"] * 4  # too much for the loop
    await journal.close()
    assert len(contents(tmp_path)) == 6 + 21 + 8


async def test_a_client_that_asks_and_waits_finds_the_loop_awake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "QUICK", 60.0)
    monkeypatch.setattr(journal_file, "LINGER", 60.0)
    journal = Journal(tmp_path, "sv-1", 0)
    journal._unfilled = 0
    await append(journal, b"the first")
    monkeypatch.setattr(journal, "_quick", journal_file.QUICK_WRITES)
    turns = 0
    linger = journal._linger

    def counting() -> None:
        nonlocal turns
        turns += 1
        linger()

    monkeypatch.setattr(journal, "_linger", counting)
    for number in range(journal_file.ALONE):
        assert turns == 0
        await append(journal, b"%d" % number)
    for _ in range(20):
        await asyncio.sleep(0)
    assert turns >= 10
    await asyncio.gather(append(journal, b"two"), append(journal, b"at once"))
    before = turns
    for _ in range(20):
        await asyncio.sleep(0)
    assert turns <= before + 1  # there are several clients: whoever comes next wakes it
    await journal.close()


async def test_what_comes_while_the_thread_writes_needs_no_thread_once_the_disk_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "QUICK", 60.0)
    journal = Journal(tmp_path, "sv-1", 0)
    journal._unfilled = 0
    threads: list[str] = []
    write, go = journal._write, threading.Event()

    def noting(group: list[Any], size: int) -> None:
        threads.append(threading.current_thread().name)
        if threads == ["journal"]:
            go.wait(60)
        write(group, size)

    monkeypatch.setattr(journal, "_write", noting)
    first = asyncio.ensure_future(append(journal, b"first"))
    await asyncio.sleep(0)
    journal.flush()
    monkeypatch.setattr(journal, "_quick", journal_file.QUICK_WRITES)
    second = asyncio.ensure_future(append(journal, b"second"))
    await asyncio.sleep(0)
    journal.flush()
    go.set()
    assert await asyncio.gather(first, second) == [1, 2]
    await journal.close()
    assert threads == ["journal", threading.current_thread().name]
    assert contents(tmp_path) == [b"first", b"second"]


async def test_files_get_their_size_also_when_there_is_never_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_file, "QUIET", 60.0)
    monkeypatch.setattr(journal_file, "CHUNK", 10_000)
    journal = Journal(tmp_path, "sv-1", 0)
    for number in range(2 * journal_file.BUSY * (SIZE // 10_000 + 2)):
        await append(journal, b"%d" % number)
    await journal.close()
    assert [(tmp_path / name).stat().st_size for name in NAMES] == [SIZE] * 2
    assert len(contents(tmp_path)) == number + 1
