"""What goes into an upload: which files, directories and links of a local directory, and how far it has come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modal._protocol.messages.volume import DIRECTORY, SYMLINK
from modal._transfer import Advance, Stopped
from modal._upload_sources import Sources
from modal.exception import InvalidError


def test_all_of_a_directory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "empty/er").mkdir(parents=True)
    (root / "empty").chmod(0o500)
    (root / "new\nline").write_text("x")
    (root / "run").write_text("#!")
    (root / "run").chmod(0o755)
    os.link(root / "run", root / "hard")
    os.mkfifo(root / "fifo")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o").write_text("o")
    for name, target in {
        "inner": "run", "broken": "nowhere", "up": ".", "outer": str(outside), "outer-file": "../outside/o",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    (outside / "back").symlink_to(root)
    sources = Sources()
    sources.add_directory(str(root), "to")
    assert [(entry.path, entry.kind, entry.content) for entry in sources.others] == [
        ("to", DIRECTORY, ""),
        ("to/broken", SYMLINK, "nowhere"),
        ("to/empty", DIRECTORY, ""),
        ("to/empty/er", DIRECTORY, ""),
        ("to/inner", SYMLINK, "run"),
        ("to/outer", DIRECTORY, ""),
        ("to/up", SYMLINK, "."),
    ]
    assert sources.others[2].mode == 0o700  # its owner must be able to fill it
    modes = {source.remote: source.mode for source in sources.files}
    assert sorted(modes) == ["to/hard", "to/new\nline", "to/outer-file", "to/outer/o", "to/run"]
    assert (modes["to/run"], modes["to/hard"]) == (0o755, 0o755)
    assert sources.left_out == [str(root / "fifo")]


def test_only_the_directory_itself(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/x").write_text("x")
    (tmp_path / "y").write_text("y")
    sources = Sources()
    sources.add_directory(str(tmp_path), "", recursive=False)
    assert ([source.remote for source in sources.files], sources.others) == (["y"], [])


def test_a_way_that_is_too_long_is_said(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("n" * 250, dir_fd=fd)
        below = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(InvalidError, match="too long"):
        Sources().add_directory(str(tmp_path), "")


def test_progress_goes_on_within_files() -> None:
    seen: list[tuple[int, int, int, int]] = []
    advance = Advance(lambda *now: seen.append(now), 2, 30)
    advance.at("a", 4)
    advance.at("b", 10)
    advance.at("a", 2)  # sent again
    advance.done("b", 20)
    advance.done("a", 10)
    assert seen == [(0, 2, 4, 30), (0, 2, 14, 30), (0, 2, 12, 30), (1, 2, 22, 30), (2, 2, 30, 30)]
    advance.stop()
    with pytest.raises(Stopped):
        advance.at("c", 1)
