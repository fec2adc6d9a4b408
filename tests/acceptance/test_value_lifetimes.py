"""Large values lie in the state directory for as long as somebody may need them, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform
from tests.acceptance.test_faults import _pid, wait_for_line

pytestmark = pytest.mark.acceptance

PATIENCE = 200.0  # seconds

PROGRAM = """
import modal

app = modal.App("large-values")
BIG = 3_000_000
queue = modal.Queue.from_name("large-values-gate", create_if_missing=True)

@app.function(max_containers=1, retries=1)
def echo(data):
    return data

@app.function(max_containers=1, retries=1)
def fail(data):
    raise ValueError("no")

@app.function(max_containers=1)
def items(data):
    for number in range(3):
        yield data

@app.function(max_containers=1)
def stuck(data, label=""):
    print("stuck", label, flush=True)
    queue.get()

@app.local_entrypoint()
def main():
    assert len(echo.remote(bytes(BIG))) == BIG
    assert [len(got) for got in echo.map([bytes(BIG)] * 5)] == [BIG] * 5
    assert [len(got) for got in items.remote_gen(bytes(BIG))] == [BIG] * 3
    assert echo.spawn(bytes(BIG)).get() == bytes(BIG)
    try:
        fail.remote(bytes(BIG))
    except ValueError:
        pass
    call = stuck.spawn(bytes(BIG))
    echo.spawn_map([bytes(BIG)] * 3)
    waiting = stuck.spawn(bytes(BIG))
    waiting.cancel()
    call.cancel(terminate_containers=True)
    print("all done", flush=True)
    stuck.remote(bytes(BIG), "at last")
"""


def test_they_go_when_nobody_needs_them(own_platform: Platform, tmp_path: Path) -> None:
    """Arguments when their call is answered, has failed or was cancelled; results when they were read."""
    path = tmp_path / "large_values.py"
    path.write_text(PROGRAM)
    assert own_platform.intermodal("up").code == 0
    process = own_platform.start("modal", "run", path)
    wait_for_line(process, "^stuck at last$")
    # The argument of the call that waits, and the results that `.get` may ask for in the next seven days.
    _wait_for_values(own_platform, 1 + 4)
    process.send_signal(signal.SIGINT)
    process.communicate()
    _wait_for_values(own_platform, 4)


def _wait_for_values(platform: Platform, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = list((platform.home / "values").iterdir())
        if len(found) == count:
            return
        assert time.monotonic() < deadline, f"{len(found)} instead of {count} values: {found}"
        time.sleep(0.05)


KILLED = """
import modal

app = modal.App("accept-killed-client")
gate = modal.Queue.from_name("accept-killed-gate", create_if_missing=True)

@app.function(max_containers=1)
def echo(data, waits):
    if waits:
        print("has it", flush=True)
        gate.get()
    return data

@app.local_entrypoint()
def main():
    data = bytes(40_000_000)
    for _ in range(3):
        assert echo.remote(data, False) == data
    echo.remote(data, True)
"""


def _with_a_large_value(platform: Platform, folder: Path) -> subprocess.Popen[str]:
    """A program that waits for a call whose argument lies in the state directory."""
    path = folder / "program.py"
    path.write_text(KILLED)
    assert platform.intermodal("up").code == 0
    process = platform.start("modal", "run", path)
    wait_for_line(process, "^has it$")
    assert list((platform.home / "values").iterdir())
    return process


@pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1")
def test_a_killed_program_leaves_no_file(own_platform: Platform, tmp_path: Path) -> None:
    """Neither of the call that it waited for, nor of those whose files it would have written again."""
    process = _with_a_large_value(own_platform, tmp_path)
    process.kill()
    process.communicate()
    _wait_for_values(own_platform, 0)  # what a client was sent is kept for a minute, should it come back


@pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1")
def test_a_program_and_a_server_that_are_killed_leave_no_file(own_platform: Platform, tmp_path: Path) -> None:
    """Nobody is left who knows of the call. It takes until the server's first sweep."""
    process = _with_a_large_value(own_platform, tmp_path)
    os.kill(_pid(own_platform, "server"), signal.SIGKILL)
    process.kill()
    process.communicate()
    assert own_platform.intermodal("up").code == 0
    _wait_for_values(own_platform, 0)
