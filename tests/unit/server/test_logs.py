"""Logs: kept, numbered, bounded, followed at the reader's pace."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from intermodal.server.services.logs import TAIL_LIMIT, Logs
from modal._protocol.messages.log import LogBatch, LogEntry, Stream

APP = "ap-1"


def entry(text: str, container: str = "ta-1") -> LogEntry:
    return LogEntry(1.5, Stream.STDOUT, text, "in-X-0", container, "fu-1", "f")


async def replay(logs: Logs, from_seq: int = 0, container: str = "") -> tuple[list[str], int]:
    texts: list[str] = []
    seq = from_seq
    async for batch in logs.follow(APP, from_seq, live=False, container_id=container):
        texts += [item.text for item in batch.entries]
        seq = batch.seq
    return texts, seq


async def test_what_was_appended_comes_back(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.append(APP, [entry("a\n"), entry("b — ünïcode\n")])
    logs.append(APP, [entry("c\n")])
    assert logs.seq(APP) == 3
    assert await replay(logs) == (["a\n", "b — ünïcode\n", "c\n"], 3)
    assert await replay(logs, 2) == (["c\n"], 3)
    assert await replay(logs, 3) == ([], 3)


async def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    Logs(tmp_path).append(APP, [entry(f"{number}\n") for number in range(5)])
    logs = Logs(tmp_path)
    assert logs.seq(APP) == 5
    logs.append(APP, [entry("5\n")])
    assert (await replay(logs, 4))[0] == ["4\n", "5\n"]


async def test_zeros_where_the_disk_has_not_got_lines_are_cut_off(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.append(APP, [entry(f"line {number}\n") for number in range(3)])
    (file,) = (tmp_path / APP).iterdir()
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + bytes(len(lines[1])) + lines[2][-20:])
    after = Logs(tmp_path)
    after.append(APP, [entry("next\n")])
    assert await replay(after) == (["line 0\n", "next\n"], 2)


async def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    Logs(tmp_path).append(APP, [entry("whole\n")])
    (path,) = (tmp_path / APP).iterdir()
    with path.open("ab") as file:
        file.write(b'[2,1.5,1,"half of a li')
    logs = Logs(tmp_path)
    assert logs.seq(APP) == 1
    logs.append(APP, [entry("next\n")])
    assert await replay(logs) == (["whole\n", "next\n"], 2)


async def test_old_entries_go_and_it_is_said(tmp_path: Path) -> None:
    logs = Logs(tmp_path, segment_limit=2000, app_limit=6000)
    for number in range(500):
        logs.append(APP, [entry(f"line {number}\n")])
    size = sum(path.stat().st_size for path in (tmp_path / APP).iterdir())
    assert size <= 8000
    texts, seq = await replay(logs)
    assert seq == 500
    assert texts[-1] == "line 499\n"
    lost = int(texts[0].split()[0].strip("["))
    assert "not kept" in texts[0]
    assert lost + len(texts) - 1 == 500
    assert texts[1] == f"line {lost}\n"


async def test_any_position_is_found_in_a_large_segment(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    for start in range(0, 20_000, 1000):
        logs.append(APP, [entry(f"line {number}\n") for number in range(start, start + 1000)])
    for seq in (0, 1, 4999, 12_345, 19_999):
        texts, reached = await replay(logs, seq)
        assert texts[0] == f"line {seq}\n"
        assert (len(texts), reached) == (20_000 - seq, 20_000)


async def test_followers_see_new_entries_and_the_end(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.append(APP, [entry("before\n")])
    seen: asyncio.Queue[LogBatch | None] = asyncio.Queue()

    async def follow() -> None:
        async for batch in logs.follow(APP):
            seen.put_nowait(batch)
        seen.put_nowait(None)

    task = asyncio.create_task(follow())
    first = await seen.get()
    assert first is not None
    assert first.seq == 1
    logs.append(APP, [entry("after\n")])
    second = await seen.get()
    assert second is not None
    assert [item.text for item in second.entries] == ["after\n"]
    logs.append(APP, [entry("last\n")])
    logs.close(APP)
    third = await seen.get()
    assert third is not None
    assert third.seq == 3
    assert await seen.get() is None
    await task


async def test_a_slow_follower_costs_no_memory_and_misses_nothing(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    follower = logs.follow(APP)
    logs.append(APP, [entry("0\n")])
    seen = [item.text for item in (await anext(follower)).entries]
    for number in range(1, 5000):
        logs.append(APP, [entry(f"{number}\n" + "x" * 100)])
    log = logs._apps[APP]
    assert log.tail_size <= TAIL_LIMIT + 1000
    logs.close(APP)
    async for batch in follower:
        seen += [item.text for item in batch.entries]
    assert [text.partition("\n")[0] for text in seen] == [str(number) for number in range(5000)]


async def test_one_containers_entries(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.append(APP, [entry("a\n", "ta-1"), entry("b\n", "ta-2")])
    logs.say(APP, "to all")
    assert (await replay(logs, container="ta-2"))[0] == ["b\n", "to all\n"]


async def test_a_full_disk_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / APP).mkdir()
    (tmp_path / APP / f"{1:016}.log").symlink_to("/dev/full")
    logs = Logs(tmp_path)
    follower = logs.follow(APP)
    logs._app(APP).followers = 1  # as if it had begun to wait
    logs.append(APP, [entry("seen\n")])
    logs.append(APP, [entry("seen too\n")])
    assert [item.text for item in (await anext(follower)).entries] == ["seen\n", "seen too\n"]
    assert logs.seq(APP) == 2
    assert len([record for record in caplog.records if "disk is full" in record.message]) == 1
    await follower.aclose()


async def test_forgotten_logs_leave_nothing(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.append(APP, [entry("a\n")])
    logs.forget(APP)
    assert list(tmp_path.iterdir()) == []
    assert logs.seq(APP) == 0
