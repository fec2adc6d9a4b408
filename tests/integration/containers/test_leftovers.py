"""A worker is killed and its state directory deleted: what it left is found and removed, and nobody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal import doctor, processes
from intermodal.worker.containers import leftovers, names
from tests.integration.containers.test_adoption import await_all, worker
from tests.integration.containers.traces import traces_now, traces_of

pytestmark = [
    pytest.mark.containers,
    pytest.mark.skipif(os.geteuid() != 0, reason="without root nothing outlives its processes"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    """Not below the test's directory: what names that must have an end with the test."""
    home = Path(tempfile.mkdtemp(prefix="im-left-", dir="/tmp"))
    yield home
    if home.exists():
        subprocess.run(
            [sys.executable, "-m", "intermodal.worker", "--clean"],
            env={**os.environ, "INTERMODAL_HOME": str(home)},
            check=True,
        )
        shutil.rmtree(home)


def test_only_when_the_directory_is_gone_and_its_worker_dead(home: Path) -> None:
    process = worker(home)
    (pid,) = await_all(process).values()
    record = leftovers.RECORDS / names.token(home)
    try:
        assert record.read_text() == str(home)
        moved = home.rename(home.with_name(f"{home.name}-moved"))
        try:
            assert str(home) not in doctor.leftovers(remove=True), "its worker lives"
        finally:
            moved.rename(home)
    finally:
        process.kill()
        process.communicate()
    assert str(home) not in doctor.leftovers(remove=True), "the next worker takes its containers over"
    assert processes.started_at(pid) is not None
    assert record.exists()
    assert traces_now(home)
    shutil.rmtree(home)
    assert str(home) in doctor.leftovers()
    assert str(home) in doctor.leftovers(remove=True)
    assert not traces_of(home)
    assert not record.exists()
    assert processes.started_at(pid) is None


def test_a_worker_that_ends_in_order_leaves_no_record(home: Path) -> None:
    process = worker(home)
    await_all(process)
    process.kill()
    process.communicate()
    done = subprocess.run(
        [sys.executable, "-m", "intermodal.worker", "--clean"],
        env={**os.environ, "INTERMODAL_HOME": str(home)},
        check=False,
    )
    assert done.returncode == 0
    assert not (leftovers.RECORDS / names.token(home)).exists()
    assert not traces_of(home)


def test_what_is_no_record_is_left_alone(home: Path) -> None:
    """A file whose name is not that of the directory in it, and one that says nothing."""
    gone = home / "gone"
    wrong = leftovers.RECORDS / "0000000f"
    leftovers.RECORDS.mkdir(mode=0o700, exist_ok=True)
    for text in (str(gone), ""):
        wrong.write_text(text)
        try:
            assert str(gone) not in doctor.leftovers(remove=True)
            assert wrong.exists()
        finally:
            wrong.unlink()
