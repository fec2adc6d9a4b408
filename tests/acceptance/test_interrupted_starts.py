"""Somebody kills the runtime in the middle of starting a container: who calls the function hears nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import modal

app = modal.App("accept-interrupted")

@app.function(max_containers=2, max_inputs=1)
def square(i):
    return i * i

@app.local_entrypoint()
def main():
    print("squares", *square.map(range(6)))
"""
KILLS = 3  # fewer than a start has tries


def kill_starts(home: Path, running: subprocess.Popen[str]) -> list[str]:
    """Kill runtimes that have not brought up their container yet, until there were enough or the program has ended."""
    killed: list[str] = []
    seen: set[int] = set()
    while running.poll() is None and len(killed) < KILLS:
        for pid, container_id in starting(home):
            if pid in seen:
                continue
            os.kill(pid, signal.SIGSTOP)  # so that it is certain how far it has come
            begun = (home / "containers" / container_id / "pid").exists()
            os.kill(pid, signal.SIGCONT if begun else signal.SIGKILL)
            seen.add(pid)
            if not begun:
                killed.append(container_id)
                if len(killed) == KILLS:
                    break
    return killed


def starting(home: Path) -> list[tuple[int, str]]:
    """Runtimes, with the containers that they bring up."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if str(home / "crun") in words and "run" in words:
                found.append((int(entry), words[-2]))
    return found


def test_callers_of_an_app_that_is_run(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "interrupted.py"
    program.write_text(PROGRAM)
    running = platform.start("modal", "run", program, merged=True)
    killed: list[str] = []
    killer = threading.Thread(target=lambda: killed.extend(kill_starts(platform.home, running)))
    killer.start()
    assert running.stdout is not None
    said = running.stdout.read()
    assert running.wait() == 0, said
    killer.join()
    assert killed, said
    assert "squares 0 1 4 9 16 25" in said
    assert "could not be started" not in said
    assert "SIGKILL" not in said
