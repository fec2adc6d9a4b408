"""Large arguments of a process that was killed: deleted by whoever sweeps, and none that anybody may need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from intermodal.server.services.values import Values

WRITER = """
import os, sys
from modal import _serialization

def write(owned):
    dumped = _serialization.dump_args((bytes(1 << 20),), {}, sys.argv[1], audience="ap-1" if owned else "", owned=owned)
    print(dumped.blob, flush=True)

for line in sys.stdin:
    what = line.strip()
    if what == "fork":
        child = os.fork()
        if not child:
            os.close(0)
            os.read(int(sys.argv[2]), 1)
            os._exit(0)
        print("forked", flush=True)
    elif what == "close":
        os.closerange(3, 100)
        print("closed", flush=True)
    else:
        write(what == "owned")
"""


class Writer:
    def __init__(self, directory: Path) -> None:
        self._reader, self._end = os.pipe()  # a child that it forks lives until this is closed
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory), str(self._reader)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._reader],
            text=True,
        )

    def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end_child(self) -> None:
        """Returns when it has ended: it holds the process's output open."""
        os.close(self._end)
        self._end = -1
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""

    def close(self) -> None:
        self.kill()
        if self._end >= 0:
            self.end_child()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        os.close(self._reader)


@pytest.fixture
def values(tmp_path: Path) -> Values:
    (tmp_path / "values").mkdir()
    return Values(tmp_path / "values")


@pytest.fixture
def start(values: Values) -> Iterator[Callable[[], Writer]]:
    writers: list[Writer] = []

    def make() -> Writer:
        writers.append(Writer(values.directory))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


def left(values: Values) -> set[str]:
    return {path.name for path in values.directory.iterdir()}


async def test_a_process_that_is_killed(values: Values, start: Callable[[], Writer]) -> None:
    killed, living = start(), start()
    mine = {killed.ask("owned"), killed.ask("owned")}
    others = {living.ask("owned"), killed.ask("of a spawned call")}
    assert await values.sweep() == 0
    killed.kill()
    (values.directory / f"{next(iter(mine))}.tmp").write_bytes(b"torn")
    assert await values.sweep() == 3
    assert left(values) == others
    assert len(list(values.owners.iterdir())) == 1
    living.kill()
    assert await values.sweep() == 1
    assert not list(values.owners.iterdir())
    assert len(left(values)) == 1  # what was spawned may be asked for


async def test_a_child_that_was_forked_counts_as_the_process(values: Values, start: Callable[[], Writer]) -> None:
    writer = start()
    value = writer.ask("owned")
    assert writer.ask("fork") == "forked"
    writer.kill()
    assert await values.sweep() == 0
    assert left(values) == {value}
    writer.end_child()
    assert await values.sweep() == 1


async def test_a_process_that_becomes_a_daemon(values: Values, start: Callable[[], Writer]) -> None:
    """It has closed all files: what it writes from then on is as safe as ever."""
    writer = start()
    writer.ask("owned")
    writer.ask("close")
    later = writer.ask("owned")
    await values.sweep()
    assert left(values) == {later}


async def test_where_nobody_could_tell(values: Values, start: Callable[[], Writer]) -> None:
    """A server of before, say: such values are kept for long."""
    values.owners.rmdir()
    writer = start()
    value = writer.ask("owned")
    writer.kill()
    values.owners.mkdir()
    assert await values.sweep() == 0
    assert left(values) == {value}
