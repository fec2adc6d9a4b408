"""What a worker has read of a container's output, over its own death."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool", "spool.caught"]
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


# -- what is taken out of a pipe


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A FIFO as containers have them: its end to read from, which never waits, and its other end."""
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(tmp_path / "fifo", os.O_WRONLY)
    yield reading, writing
    os.close(reading)
    with contextlib.suppress(OSError):
        os.close(writing)


def test_what_a_killed_worker_has_read_is_there_once(tmp_path: Path, pipe: tuple[int, int]) -> None:
    """It dies before it has made entries of it, or right after that."""
    reading, writing = pipe
    first = opened(tmp_path / "spool")
    os.write(writing, b"a\nb\n")
    assert first.catch(2, reading, 1000) == b"a\nb\n"
    second = opened(tmp_path / "spool")
    assert second.left() == (2, b"a\nb\n")
    second.put(entries("a\n", "b\n"))
    third = opened(tmp_path / "spool")
    assert texts(third) == ["a\n", "b\n"]
    assert third.left() is None
    os.write(writing, b"c\n")
    assert third.catch(1, reading, 1000) == b"c\n"
    assert opened(tmp_path / "spool").left() == (1, b"c\n")
    third.put(entries("c\n"))
    third.caught()
    os.write(writing, b"d\n")
    assert third.catch(1, reading, 1) == b"d"  # as much as was asked for
    third.caught()
    assert opened(tmp_path / "spool").left() is None


def test_a_pipe_that_is_empty_and_one_that_has_ended(tmp_path: Path, pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    spool = opened(tmp_path / "spool")
    with pytest.raises(BlockingIOError):
        spool.catch(1, reading, 1000)
    os.close(writing)
    assert spool.catch(1, reading, 1000) == b""
    assert opened(tmp_path / "spool").left() is None


def test_what_the_disk_does_not_take_is_read(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = pipe
    spool = opened(tmp_path / "spool")

    def full(*_args: object, **_named: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "splice", full)
    os.write(writing, b"a\n")
    assert spool.catch(1, reading, 1000) == b"a\n"
    assert opened(tmp_path / "spool").left() is None


PUMP = """
import asyncio, os, sys
from pathlib import Path
from intermodal.worker.log_spool import LogSpool
from intermodal.worker.logs import LogPump

async def main():
    folder = Path(sys.argv[1])
    spool = LogSpool(folder / "spool", "ap-1", "ta-1")
    spool.open()
    pipes = [os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK) for name in ("out", "err")]
    LogPump(*pipes, spool.put, lambda _mark: "", spool).start()
    print("reads", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_workers_that_are_killed_in_the_middle_of_it_lose_nothing(tmp_path: Path) -> None:
    """Each has a full pipe to read when it begins."""
    pipes = []
    for name in ("out", "err"):
        os.mkfifo(tmp_path / name)
        pipes.append(os.open(tmp_path / name, os.O_RDWR | os.O_NONBLOCK))
    chance, written = random.Random(), 0
    for _life in range(8):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipes[0], b"%09d\n" % written)
                written += 1
        command = [sys.executable, "-c", PUMP, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"reads\n"
            time.sleep(chance.uniform(0.0, 0.004))  # the moment is what is tried
            worker.kill()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"reads\n"
        os.set_blocking(pipes[0], True)
        os.write(pipes[0], b"last\n")
        while b"last\n" not in (tmp_path / "spool").read_bytes().replace(b"\\n", b"\n"):
            time.sleep(0.01)
        worker.kill()
    for descriptor in pipes:
        os.close(descriptor)
    lines = "".join(texts(opened(tmp_path / "spool"))).splitlines()
    assert lines == [f"{number:09}" for number in range(written)] + ["last"]
