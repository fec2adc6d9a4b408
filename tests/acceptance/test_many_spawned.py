"""Many spawned inputs whose server is killed: while they are accepted, and while they are worked off.

`INTERMODAL_SPAWNED` says how many (CI: some thousands; a million takes some minutes).
"""

from __future__ import annotations

import array
import collections
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from modal._protocol.messages.call import Status
from tests.acceptance.conftest import Platform
from tests.acceptance.test_faults import _pid, finish, wait_for_line

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(0)]

COUNT = int(os.environ.get("INTERMODAL_SPAWNED", "20000"))
PATIENCE = 600.0 + COUNT / 200  # seconds

APP = """
import array, os, time
import modal

app = modal.App("many")
nfs = modal.NetworkFileSystem.from_name("many", create_if_missing=True)
ran = None

@app.function(network_file_systems={"/ran": nfs}, max_containers=2, timeout=3600)
def work(number):
    global ran
    if ran is None:
        ran = open("/ran/" + os.environ["MODAL_TASK_ID"], "ab", buffering=0)
    ran.write(array.array("Q", [number]).tobytes())
    time.sleep(0.0002)  # so that there is a middle
    while number == LAST and not os.path.exists("/ran/go-on"):
        time.sleep(0.05)
    return number
"""

CLIENT = """
import sys, time
import modal

count = int(sys.argv[1])

def numbers():
    for number in range(count):
        if number == count // 2:
            print("half", flush=True)
        if number > count // 2 and number % (count // 200) == 0:
            time.sleep(0.005)  # so that the server dies while they are being sent
        if number == count - 1:
            sys.stdin.readline()  # and before all have been
        yield number

modal.Function.from_name("many", "work").spawn_map(numbers())
print("accepted", flush=True)
"""


def test_a_killed_server_loses_none(own_platform: Platform, tmp_path: Path) -> None:
    """Each input has run, and has one result, its own."""
    (tmp_path / "many.py").write_text(APP.replace("LAST", str(COUNT - 1)))
    (tmp_path / "client.py").write_text(CLIENT)
    assert own_platform.intermodal("up").code == 0
    deployed = own_platform.modal("deploy", tmp_path / "many.py")
    assert deployed.code == 0, deployed.text
    pid = _pid(own_platform, "server")
    process = own_platform.start_python(tmp_path / "client.py", str(COUNT), listens=True)
    assert process.stdin is not None
    lines = wait_for_line(process, "^half$")
    os.kill(pid, signal.SIGKILL)
    before = _rows(own_platform)
    assert sum(before) < COUNT, "the server was killed too late to try anything"
    assert own_platform.intermodal("up").code == 0
    print(file=process.stdin, flush=True)
    assert "accepted" in finish(process, lines)
    pid = _pid(own_platform, "server")
    _wait(own_platform, lambda _inputs, outputs: outputs >= COUNT // 2)
    os.kill(pid, signal.SIGKILL)
    waiting = _rows(own_platform)[0]
    began = time.monotonic()
    assert own_platform.intermodal("up").code == 0
    print(f"killed with {before[0]} inputs waiting of {sum(before)}; then with {waiting}, and up again", end=" ")
    print(f"in {time.monotonic() - began:.2f} s")
    assert waiting, "all had been done"
    (ran,) = (path for path in (own_platform.home / "network-files").iterdir() if path.name.startswith("nf-"))
    (ran / "go-on").touch()
    _wait(own_platform, lambda inputs, _outputs: not inputs)
    with closing(_store(own_platform)) as store:
        found = store.execute("SELECT status, count(*) FROM outputs GROUP BY status").fetchall()
        assert store.execute("SELECT count(DISTINCT value) FROM outputs").fetchone() == (COUNT,)
    assert found == [(Status.SUCCESS, COUNT)]
    runs: collections.Counter[int] = collections.Counter()
    for path in (own_platform.home / "network-files").glob("*/ta-*"):
        runs.update(array.array("Q", path.read_bytes()))
    assert len(runs) == COUNT
    # Their containers outlived the server and had what they ran: nothing needed to run again.
    again = [number for number, times in runs.items() if times > 1]
    assert not again, f"{len(again)} ran more than once: {again[:20]}"


def _store(platform: Platform) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{platform.home / 'store.sqlite'}?mode=ro", uri=True, timeout=30)


def _rows(platform: Platform) -> tuple[int, int]:
    """Spawned inputs without an output, and outputs."""
    with closing(_store(platform)) as store:
        inputs = store.execute("SELECT count(*) FROM inputs").fetchone()[0]
        outputs = store.execute("SELECT count(*) FROM outputs").fetchone()[0]
    return inputs, outputs


def _wait(platform: Platform, reached: Callable[[int, int], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached(*_rows(platform)):
        assert time.monotonic() < deadline, f"(waiting, done): {_rows(platform)}\n{platform.intermodal('status').text}"
        time.sleep(0.05)
