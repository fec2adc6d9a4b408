"""The store of local files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from intermodal.files import EMPTY, Files
from intermodal.home import Home
from intermodal.processes import lives
from modal._protocol.errors import Code, Fault


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(Home(tmp_path))


def test_a_file_that_was_put_is_there(files: Files) -> None:
    name = digest(b"hello")
    assert files.missing([name, EMPTY]) == [name, EMPTY]
    path = files.put(name, b"hello")
    assert path == files.path(name)
    assert path.read_bytes() == b"hello"
    assert files.has(name)
    assert files.missing([name, EMPTY]) == [EMPTY]
    assert files.put(name, b"hello") == path


def test_content_with_another_hash_is_refused_and_leaves_nothing(files: Files, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="changed on its way") as caught:
        files.put(digest(b"hello"), b"hullo")
    assert caught.value.code == Code.INVALID
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "ab", "0" * 63 + "\n"])
def test_what_is_no_hash_is_refused(files: Files, name: str) -> None:
    with pytest.raises(Fault, match="not a SHA-256"):
        files.has(name)


def test_a_large_file_arrives_in_parts(files: Files) -> None:
    parts = [bytes([number]) * 100_000 for number in range(5)]
    name = digest(b"".join(parts))
    with files.writer(name) as writer:
        for part in parts:
            writer.write(part)
        assert not files.has(name)
        writer.commit()
    assert writer.size == 500_000
    assert files.path(name).read_bytes() == b"".join(parts)


def test_an_interrupted_upload_leaves_nothing(files: Files, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.writer(digest(b"ab")) as writer:
        writer.write(b"a")
        raise RuntimeError
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_rest_of_an_ended_process_is_removed_and_of_a_living_one_kept(files: Files, tmp_path: Path) -> None:
    incoming = tmp_path / "files/.incoming"
    incoming.mkdir(parents=True)
    (incoming / "4194305-0").write_bytes(b"half")  # above the kernel's largest process id
    (incoming / "1-0").write_bytes(b"half")
    files.clean()
    assert [path.name for path in incoming.iterdir()] == ["1-0"]


def test_an_empty_file_where_a_full_one_should_be_counts_as_missing(files: Files) -> None:
    name = digest(b"hello")
    files.put(name, b"hello").write_bytes(b"")
    assert not files.has(name)
    assert files.put(name, b"hello").read_bytes() == b"hello"
    files.put(EMPTY, b"")
    assert files.has(EMPTY)


def test_each_mode_is_a_file_of_its_own(files: Files) -> None:
    name = digest(b"#!/bin/sh\n")
    plain = files.put(name, b"#!/bin/sh\n")
    program = files.with_mode(name, 0o755)
    assert program.stat().st_mode & 0o7777 == 0o755
    assert plain.stat().st_mode & 0o7777 == 0o644
    assert files.with_mode(name, 0o644) == plain
    assert files.with_mode(name, 0o755) == program


def test_a_mode_of_a_file_that_is_not_here(files: Files) -> None:
    with pytest.raises(Fault) as caught:
        files.with_mode(digest(b"never"), 0o755)
    assert caught.value.code == Code.NOT_FOUND


def test_a_process_that_was_killed_and_not_waited_for_does_not_live() -> None:
    child = subprocess.Popen(["sleep", "60"])
    assert lives(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    assert not lives(child.pid)
    child.wait()
    assert not lives(child.pid)
