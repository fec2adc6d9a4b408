"""A container that is frozen while it starts, by the control group's freezer: its caller hears of it.

Slow (it takes more than a minute to be sure): set INTERMODAL_SLOW_TESTS=1.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from intermodal.worker.containers.cgroups import Mounts
from tests.acceptance.conftest import Platform

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.containers,
    pytest.mark.timeout(200),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
]

PROGRAM = """
import os, time
import modal

app = modal.App("accept-frozen")

@app.cls()
class Model:
    @modal.enter()
    def load(self):
        print("entering", os.environ["MODAL_TASK_ID"], flush=True)
        while True:
            time.sleep(0.1)

    @modal.method()
    def f(self):
        return 1

@app.local_entrypoint()
def main():
    Model().f.remote()
"""


def freeze(container_id: str) -> None:
    """Every process of the container stands still from now on."""
    mark = f"MODAL_TASK_ID={container_id}".encode()
    pid = next(
        path.parent
        for path in Path("/proc").glob("[0-9]*/environ")
        if mark in _read(path).split(b"\0") and b"runner/start.py" in _read(path.with_name("cmdline"))
    )
    mounts = Mounts.read()
    for line in (pid / "cgroup").read_text().splitlines():
        _number, controllers, group = line.split(":", 2)
        if controllers == "freezer" and "freezer" in mounts.legacy:
            (mounts.legacy["freezer"] / group[1:] / "freezer.state").write_text("FROZEN")
            return
        if not controllers and mounts.mode == "v2" and mounts.unified is not None:
            (mounts.unified / group[1:] / "cgroup.freeze").write_text("1")
            return
    pytest.skip("no freezer here")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_container_that_is_frozen_while_it_starts(platform: Platform, tmp_path: Path) -> None:
    program = tmp_path / "frozen.py"
    program.write_text(PROGRAM)
    running = platform.start("modal", "run", program, merged=True)
    assert running.stdout is not None
    container_id = next(line.split()[1] for line in running.stdout if line.startswith("entering"))
    freeze(container_id)
    said = running.stdout.read()
    assert running.wait() == 1
    assert "it has not been heard of for 60 seconds while it started, and its processes stand still" in said
