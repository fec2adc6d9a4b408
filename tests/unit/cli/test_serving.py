"""What `modal serve` watches, and what counts as a change."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

import modal
from modal._mounts import LocalDir, LocalFile
from modal.cli.serving.inventory import (
    CHANGING,
    DIRECTORY,
    FILE,
    MISSING,
    PYTHON_DIRECTORY,
    Inventory,
    Reads,
    entries_of,
    fingerprint,
    is_noise,
    take,
)
from modal.cli.serving.watch import Watch


@pytest.mark.parametrize("name", [".git", ".a.py.swp", "a.py~", "a.pyc", "__pycache__", "4913", "#a.py#", "x.tmp"])
def test_names_that_do_not_count(name: str) -> None:
    assert is_noise(name)


@pytest.mark.parametrize("name", ["a.py", "data", "Dockerfile", "a.temp", "49130"])
def test_names_that_count(name: str) -> None:
    assert not is_noise(name)


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    entry = (FILE, str(path))
    path.write_text("1")
    inventory = Inventory()
    inventory.settle([entry])
    os.utime(path, (1, 1))
    assert not inventory.changed()
    (tmp_path / "b").write_text("1")
    os.replace(tmp_path / "b", path)
    assert not inventory.changed()
    path.write_text("2")
    assert inventory.changed() == [entry]
    inventory.settle([entry])
    path.unlink()
    assert inventory.changed() == [entry]
    assert fingerprint(entry) == MISSING


def test_a_very_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    entry = (FILE, str(path))
    inventory = Inventory()
    inventory.settle([entry])
    assert not inventory.changed()
    os.utime(path, (1, 1))
    assert inventory.changed() == [entry]


def test_a_directory_counts_by_its_names(tmp_path: Path) -> None:
    inventory = Inventory()
    anything, python = (DIRECTORY, str(tmp_path)), (PYTHON_DIRECTORY, str(tmp_path))
    inventory.settle([anything, python])
    (tmp_path / ".a.swp").write_text("")
    (tmp_path / "__pycache__").mkdir()
    assert not inventory.changed()
    (tmp_path / "a.txt").write_text("")
    assert inventory.changed() == [anything]
    inventory.settle([anything])
    (tmp_path / "a.py").write_text("")
    assert inventory.changed() == [anything, python]


def test_what_an_event_concerns(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("")
    inventory = Inventory({(FILE, str(path)): "x", (DIRECTORY, str(tmp_path)): "y"})
    assert inventory.touched([str(path)]) == [(FILE, str(path)), (DIRECTORY, str(tmp_path))]
    assert inventory.touched([str(other)]) == [(DIRECTORY, str(tmp_path))]
    assert inventory.touched(["/elsewhere/a"]) == []


def test_where_to_watch(tmp_path: Path) -> None:
    """The directories of files, and the nearest one that exists for what is gone."""
    (tmp_path / "in").mkdir()
    known = {(FILE, str(tmp_path / "in" / "a")): "", (DIRECTORY, str(tmp_path / "gone" / "deep")): ""}
    assert Inventory(known).directories() == [str(tmp_path), str(tmp_path / "in")]


def test_a_set_of_files_and_its_directories(tmp_path: Path) -> None:
    for name in ("a", "sub/b", ".git/config", "sub/.cache/c", "skipped/d"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "empty").mkdir()
    found = set(entries_of(LocalDir(tmp_path, "/data", ignore=["skipped"])))
    assert {path for kind, path in found if kind == FILE} == {str(tmp_path / "a"), str(tmp_path / "sub/b")}
    directories = {path for kind, path in found if kind == DIRECTORY}
    assert {str(tmp_path), str(tmp_path / "sub"), str(tmp_path / "empty")} <= directories
    assert not any(".git" in path or ".cache" in path for path in directories)
    assert list(entries_of(LocalFile(tmp_path / "a", "/a"))) == [(FILE, str(tmp_path / "a"))]


def test_what_a_program_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules and what it opens, but not what it writes, and nothing of Python or of this project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "probe_module.py").write_text("SETTINGS = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reads = Reads()
    since = time.time_ns() + 60_000_000_000
    reads("open", ("settings.json", "r", 0))
    reads("open", (b"late.txt", None, os.O_RDONLY))
    reads("open", ("made.txt", "w", os.O_WRONLY))
    reads("open", ("made.txt", "r", 0))
    reads("open", ("/etc/hosts", "r", 0))
    reads("open", (7, "r", 0))
    reads("os.rename", ("x", "moved.txt", -1, -1))
    reads("open", ("moved.txt", "r", 0))
    try:
        import probe_module  # type: ignore[import-not-found]  # noqa: F401

        known = take(reads, None, since, failed=True).known
    finally:
        sys.modules.pop("probe_module", None)
    names = {Path(path).name for kind, path in known if kind == FILE and path.startswith(str(tmp_path))}
    assert names == {"settings.json", "late.txt", "probe_module.py"}
    assert known[(FILE, str(tmp_path / "late.txt"))] == MISSING
    assert (PYTHON_DIRECTORY, str(tmp_path)) in known
    package = str(Path(modal.__file__).parent)
    assert not [path for _kind, path in known if path.startswith((package, "/usr/", "/etc/"))]
    assert not [path for _kind, path in known if "site-packages" in path]


def test_a_file_saved_while_the_program_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    reads = Reads()
    reads("open", (str(tmp_path / "a.txt"), "r", 0))
    assert take(reads, None, time.time_ns() - 10**9, failed=False).known[(FILE, str(tmp_path / "a.txt"))] == CHANGING


@pytest.mark.filterwarnings("default")
def test_watching_sees_files_that_are_replaced(tmp_path: Path) -> None:
    seen: list[str] = []
    told = threading.Event()

    def on_change(paths: list[str]) -> None:
        seen.extend(paths)
        told.set()

    watch = Watch([str(tmp_path)], on_change, lambda: None)
    try:
        for _ in range(3):
            told.clear()
            (tmp_path / "new").write_text("x")
            os.replace(tmp_path / "new", tmp_path / "a.py")
            assert told.wait(30)
    finally:
        watch.close()
    assert str(tmp_path / "a.py") in seen
