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


HELD = """
import modal

app = modal.App("accept-held-values")
SIZE = 40_000_000

@app.function(max_containers=1)
def make(number):
    return bytes([number]) * SIZE

@app.cls(max_containers=1)
class Keeper:
    @modal.enter()
    def begin(self):
        self.kept = []

    @modal.method()
    def keep(self, data):
        self.kept = self.kept[-2:] + [data]
        return [set(one) for one in self.kept]

@app.local_entrypoint()
def main():
    held = [make.remote(1)]
    for number in range(2, 9):
        data = make.remote(number)
        assert len(data) == SIZE and set(data) == {number}
        if number % 3 == 0:
            held.append(data)
    assert [set(one) for one in held] == [{1}, {3}, {6}]
    keeper = Keeper()
    for number in range(1, 8):
        found = keeper.keep.remote(bytes([number]) * SIZE)
        assert found == [{one} for one in range(max(1, number - 2), number + 1)], found
    keeper.keep.remote(b"")  # tells that what was asked before has arrived
    print("all right")
"""


def test_what_somebody_holds_never_changes(platform: Platform, tmp_path: Path) -> None:
    """Files are written again, but not while a program or a container has the value that they were."""
    (tmp_path / "program.py").write_text(HELD)
    directory = platform.home / "values"
    ran = platform.modal("run", tmp_path / "program.py")
    assert ran.code == 0, ran.text
    assert "all right" in ran.lines()
    deadline = time.monotonic() + 200
    while left := [*directory.glob("*.spare"), *platform.home.glob("containers/*/run/values/*.spare")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
