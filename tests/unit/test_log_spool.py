"""What a worker has read of a container's output, over its own death."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.worker import log_spool
from intermodal.worker.log_spool import LogSpool
from modal._protocol.messages.log import LogEntry


def entries(*texts: str) -> list[LogEntry]:
    return [LogEntry(0.0, 1, text) for text in texts]


def texts(spool: LogSpool) -> list[str]:
    return [entry.text for message in spool.waiting() for entry in message.entries]


def opened(path: Path) -> LogSpool:
    spool = LogSpool(path, "ap-1", "ta-1")
    spool.open()
    return spool


def test_the_next_worker_goes_on_where_the_last_one_died(tmp_path: Path) -> None:
    first = opened(tmp_path / "spool")
    assert first.put(entries("a\n", "b\n")).first == 1
    assert first.put(entries("c\n")).first == 3
    second = opened(tmp_path / "spool")  # the first one was killed: nothing was closed
    assert texts(second) == ["a\n", "b\n", "c\n"]
    assert second.put(entries("d\n")).first == 4
    second.acknowledged(3)
    assert texts(second) == ["d\n"]
    third = opened(tmp_path / "spool")
    assert texts(third)[-1] == "d\n"
    third.acknowledged(4)
    assert third.is_empty
    assert opened(tmp_path / "spool").put(entries("e\n")).first == 5


def test_a_record_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    spool.put(entries("a\n"))
    spool.put(entries("b\n" * 100))
    data = (tmp_path / "spool").read_bytes()
    (tmp_path / "spool").write_bytes(data[:-7])
    again = opened(tmp_path / "spool")
    assert texts(again) == ["a\n"]
    assert again.put(entries("c\n")).first == 2
    assert texts(opened(tmp_path / "spool")) == ["a\n", "c\n"]


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_spool, "COMPACT_BYTES", 10_000)
    spool = opened(tmp_path / "spool")
    for number in range(1, 2000):
        spool.put(entries("x" * 100))
        spool.acknowledged(number - 5)  # always a little behind
    assert (tmp_path / "spool").stat().st_size < 20_000
    assert len(texts(opened(tmp_path / "spool"))) >= 5
    assert opened(tmp_path / "spool").count == 1999


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that found room for a part of itself alone hides none of those that come after it; nothing is raised."""
    monkeypatch.setattr(log_spool, "COMPACT_BYTES", 10)
    first = opened(tmp_path / "spool")
    first.put(entries("a\n", "b\n"))
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: len(data) // 2], at))
        first.put(entries("lost with the worker\n"))
    first.put(entries("c\n"))

    def refuse(self: Path, _data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", refuse)
        first.acknowledged(2)
    assert texts(first) == ["lost with the worker\n", "c\n"]
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
    second = opened(tmp_path / "spool")
    assert texts(second)[-1] == "c\n"
    assert second.put(entries("d\n")).first == 5


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 4), st.just("ack"), st.just("die")), max_size=40))
def test_nothing_is_lost_or_numbered_twice(tmp_path_factory: pytest.TempPathFactory, steps: list[int | str]) -> None:
    path = tmp_path_factory.mktemp("spool") / "spool"
    spool = opened(path)
    written = kept = 0
    names = itertools.count(1)
    for step in steps:
        if step == "die":
            spool = opened(path)
        elif step == "ack":
            kept = written - (written - kept) // 2
            spool.acknowledged(kept)
        else:
            message = spool.put(entries(*[str(next(names)) for _ in range(int(step))]))
            assert message.first == written + 1
            written += int(step)
        waiting = texts(spool)
        assert waiting == [str(number) for number in range(written - len(waiting) + 1, written + 1)]
        assert written - len(waiting) <= kept
