"""Values that travel as files: from programs and from containers, and what becomes of the files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

PROGRAM = """
import modal

app = modal.App("accept-large-values")
SIZE = 9_000_000  # more than what is read into huge pages

@app.function()
def double(data):
    return data + data

@app.function(memory=(64, 128))  # MiB: files that a container writes must not count for what it needs
def outer(size):
    data = bytes(range(250)) * (size // 250)
    assert double.remote(data) == data + data
    assert [found == data + data for found in double.map([data] * 3)] == [True] * 3
    assert double.spawn(data).get() == data + data
    double.remote(b"")  # tells that what was asked before has arrived
    return data

@app.local_entrypoint()
def main():
    data = bytes(range(250)) * (SIZE // 250)
    assert outer.remote(SIZE) == data
    assert double.remote(data) == data + data
    assert list(double.map([data] * 2)) == [data + data] * 2
    assert double.spawn(data).get() == data + data
    double.remote(b"")
    print("all right")
"""


def test_they_arrive_and_their_files_go(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    directory = platform.home / "values"
    before = set(os.listdir(directory))
    ran = platform.modal("run", tmp_path / "program.py")
    assert ran.code == 0, ran.text
    assert "all right" in ran.lines()
    # The results of the two spawned calls stay for seven days; all else has been read.
    deadline = time.monotonic() + 200
    while len(left := set(os.listdir(directory)) - before) > 2:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert [(directory / name).stat().st_size > 18_000_000 for name in left] == [True, True]
