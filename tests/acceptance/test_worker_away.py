"""A call that is cancelled and an app that is stopped while the worker does not answer, and then dies."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform
from tests.acceptance.test_faults import _pid, finish, wait_for_line

pytestmark = pytest.mark.acceptance

APP = """
import time
import modal

app = modal.App("NAME")
queue = modal.Queue.from_name("worker-away", create_if_missing=True)

@app.function(max_containers=1, scaledown_window=1200)
def stay(seconds):
    queue.put("begun")
    time.sleep(seconds)
    return seconds
"""

CLIENT = """
import sys
import modal

queue = modal.Queue.from_name("worker-away", create_if_missing=True)
kept, stopped = [modal.Function.from_name(name, "stay") for name in ("kept", "stopped")]
call = kept.spawn(600)
other = stopped.spawn(600)
assert [queue.get(), queue.get()] == ["begun", "begun"]
print("begun", flush=True)
sys.stdin.readline()
call.cancel()
print("cancelled", flush=True)
sys.stdin.readline()
assert kept.remote(0) == 0
for ended in (call, other):
    try:
        ended.get(timeout=200)
    except modal.exception.RemoteError as error:
        print(error, flush=True)
"""


def test_both_take_effect_with_the_next_worker(own_platform: Platform, tmp_path: Path) -> None:
    assert own_platform.intermodal("up").code == 0
    for name in ("kept", "stopped"):
        (tmp_path / f"{name}.py").write_text(APP.replace("NAME", name))
        deployed = own_platform.modal("deploy", tmp_path / f"{name}.py")
        assert deployed.code == 0, deployed.text
    (tmp_path / "client.py").write_text(CLIENT)
    client = own_platform.start_python(tmp_path / "client.py", listens=True)
    assert client.stdin is not None
    wait_for_line(client, "^begun$")
    before = {one["App Name"]: one["Container ID"] for one in _containers(own_platform)}
    assert set(before) == {"kept", "stopped"}
    worker = _pid(own_platform, "worker")
    os.kill(worker, signal.SIGSTOP)
    stopping = own_platform.start("modal", "app", "stop", "stopped")
    print(file=client.stdin, flush=True)
    wait_for_line(client, "^cancelled$")
    os.kill(worker, signal.SIGKILL)
    assert own_platform.intermodal("up").code == 0
    finish(stopping, [])
    print(file=client.stdin, flush=True)
    lines = finish(client, [])
    assert [line for line in lines if "cancelled" in line or "stopped" in line] == lines
    assert len(lines) == 2
    after = {one["App Name"]: one["Container ID"] for one in _containers(own_platform)}
    assert after == {"kept": before["kept"]}, "the cancelled input's container takes the next one"


def _containers(platform: Platform) -> list[dict[str, str]]:
    listed = platform.modal("container", "list", "--json")
    assert listed.code == 0, listed.text
    found: list[dict[str, str]] = json.loads(listed.out)
    return found
