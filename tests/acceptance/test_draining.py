"""`intermodal drain` and `undrain`, with a program that runs meanwhile."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import os
import time
import modal

app = modal.App("accept-drained")
seen = modal.Dict.from_name("accept-drained", create_if_missing=True)

@app.cls()
class Slow:
    @modal.method()
    def work(self, x):
        if seen.put("begun", True, skip_if_exists=True):
            print("begins", flush=True)
            time.sleep(600)
        return x + 1

    @modal.exit()
    def end(self):
        print("exit handler", flush=True)

@app.local_entrypoint()
def main():
    print("result", Slow().work.remote(1))
"""


def test_a_drained_worker(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    process = platform.start("modal", "run", path)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "begins":
        assert process.poll() is None, process.communicate()
    try:
        drained = platform.intermodal("drain")
        assert drained.code == 0, drained.text
        first, *_, last = drained.out.splitlines()
        assert "is drained, 1 container" in first or "containers left." in first
        assert last == "no containers left."
        status = platform.intermodal("status")
        assert ", drained" in status.out, status.text
        assert platform.status()["containers"] == []
        listed = platform.modal("app", "list", "--json")
        deadline = time.monotonic() + 200
        while "drained" not in listed.out.replace("accept-drained", "") and time.monotonic() < deadline:
            listed = platform.modal("app", "list", "--json")  # it is said after a moment of waiting
        assert "waits for a worker: it is drained (`intermodal undrain`)" in listed.out, listed.text
        refused = platform.intermodal("drain", "elsewhere")
        assert refused.code == 1
        assert "there is no worker elsewhere" in refused.err
    finally:
        undrained = platform.intermodal("undrain")
    assert undrained.code == 0, undrained.text
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    lines = [line.strip() for line in out.splitlines()]
    assert "result 2" in lines
    assert "exit handler" in lines[: lines.index("result 2")], "the one of the preempted container"
    again = platform.intermodal("undrain")
    assert (again.code, again.err) == (1, "Error: no worker is drained\n")
    assert platform.modal("dict", "delete", "accept-drained", "--yes").code == 0
