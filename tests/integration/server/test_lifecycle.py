"""`intermodal up`, `down`, `status` with the real worker: as users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from intermodal import lifecycle, processes
from intermodal.home import Home
from modal._protocol.messages.secret import ServerStatus, ServerStatusGet

pytestmark = pytest.mark.containers


@pytest.fixture
def ran(home: Home) -> Iterator[Home]:
    yield home
    lifecycle.down(home)


def intermodal(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "intermodal", *arguments],
        env={**os.environ, "INTERMODAL_HOME": str(home.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, out + err
    return out


def status(home: Home) -> Any:
    return json.loads(said(intermodal(home, "status", "--json")))


def wait_for_worker(home: Home, not_pid: int) -> Any:
    """The status once another worker than this one is there."""
    connection = lifecycle.connect(home)
    assert connection is not None
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        found = connection.request(ServerStatusGet(5.0, False), ServerStatus).status
        workers = [each for each in found["workers"] if each["connected"] and each["pid"] != not_pid]
        if workers:
            connection.close()
            return found
        time.sleep(0.05)
    raise AssertionError("no other worker came")


def test_two_at_once_start_one_server(ran: Home) -> None:
    both = [intermodal(ran, "up"), intermodal(ran, "up")]
    texts = sorted(said(process) for process in both)
    assert [text.splitlines()[0] for text in texts] == ["Intermodal is running.", "Intermodal was started."]
    found = status(ran)
    assert found["running"]
    assert all(str(found["pid"]) in text for text in texts)
    assert len(found["workers"]) == 1
    assert found["local_worker"]["state"] == "running"
    assert (found["memory"] + found["worker_memory"]) < 120 << 20
    assert "intermodal.server" in said(intermodal(ran, "logs", "--server", "-n", "5"))


def test_down_ends_everything_and_says_so(ran: Home) -> None:
    said(intermodal(ran, "up", "--quiet"))
    found = status(ran)
    text = said(intermodal(ran, "down"))
    assert f"process {found['pid']}" in text
    assert f"process {found['workers'][0]['pid']}" in text
    assert not lifecycle.answers(ran)
    assert lifecycle.holder(ran.lock) is None
    assert lifecycle.holder(ran.worker_lock) is None
    assert not ran.socket.exists()
    assert said(intermodal(ran, "down")) == "Intermodal was not running.\n"
    assert "not running" in said(intermodal(ran, "status"), code=3)


def test_a_killed_worker_is_started_again(ran: Home) -> None:
    found, started = lifecycle.up(ran)
    assert started
    pid = found["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    again = wait_for_worker(ran, pid)
    assert again["local_worker"]["failures"] == 1
    assert "signal 9" in again["local_worker"]["last_exit"]
    assert "ended 1 times" in said(intermodal(ran, "status"))


def test_a_new_server_adopts_the_worker_of_a_killed_one(ran: Home) -> None:
    found, _started = lifecycle.up(ran)
    worker = found["workers"][0]["pid"]
    os.kill(found["pid"], signal.SIGKILL)
    process = processes.ProcessId(found["pid"], processes.started_at(found["pid"]) or 0)
    processes.wait_end(process, 10)
    again, started = lifecycle.up(ran)
    assert started
    assert again["workers"][0]["pid"] == worker
    assert again["local_worker"] == {"state": "running", "pid": worker, "failures": 0, "last_exit": ""}
    os.kill(worker, signal.SIGKILL)  # watched, though it is no child of this server
    wait_for_worker(ran, worker)


def test_a_server_that_is_killed_while_it_starts_is_started_again(ran: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    status, killed = lifecycle.status, []
    spawn = subprocess.Popen

    def kill_spawned(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        monkeypatch.setattr(subprocess, "Popen", spawn)
        process = spawn(*args, **kwargs)
        process.kill()
        killed.append(process.pid)
        return process

    def kill_and_ask(home: Home, **more: Any) -> Any:
        monkeypatch.setattr(lifecycle, "status", status)
        holder = lifecycle.holder(home.lock)
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        killed.append(holder.pid)
        return status(home, **more)

    monkeypatch.setattr(subprocess, "Popen", kill_spawned)  # before it has said a word
    monkeypatch.setattr(lifecycle, "status", kill_and_ask)  # right after it has said that it is ready
    found, started = lifecycle.up(ran)
    assert started
    assert len(killed) == 2
    assert found["pid"] not in killed


def test_down_after_both_were_killed(ran: Home) -> None:
    found, _started = lifecycle.up(ran)
    for pid in (found["pid"], found["workers"][0]["pid"]):
        os.kill(pid, signal.SIGKILL)
    assert "Cleaned up" in said(intermodal(ran, "down"))
    assert said(intermodal(ran, "down")) == "Intermodal was not running.\n"


def test_a_stopped_server_is_ended_by_down(ran: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _started = lifecycle.up(ran)
    os.kill(found["pid"], signal.SIGSTOP)
    monkeypatch.setattr(lifecycle, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(lifecycle, "END_SECONDS", 0.3)
    assert f"stopped the server (process {found['pid']})" in lifecycle.down(ran)
    assert lifecycle.holder(ran.lock) is None
