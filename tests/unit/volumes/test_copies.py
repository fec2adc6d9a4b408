"""Contents on their way into the object store, with and without a thread that writes."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from modal._protocol import objects
from modal._protocol.objects import CHUNK, object_path, place


@pytest.fixture(params=["by the kernel", "overlapped", "in turn"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(objects, "OVERLAPPED_FROM", 1 << 60 if request.param == "in turn" else 0)
    if request.param == "overlapped":
        monkeypatch.setattr(os, "copy_file_range", refuse)
    return str(tmp_path / "store")


def refuse(*_args: object) -> int:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def source(path: Path, size: int, hole: int = 0) -> int:
    with path.open("wb") as file:
        file.write(os.urandom(size // 2))
        file.seek(hole, os.SEEK_CUR)
        file.write(os.urandom(size - size // 2))
    return os.open(path, os.O_RDONLY)


def test_a_file_that_changes_meanwhile(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a content is the hash of what was stored, whatever becomes of the original."""
    path = tmp_path / "source"
    fd = source(path, 40 * CHUNK)
    preadv = os.preadv

    def changing(*args: Any) -> int:
        with path.open("r+b") as file:
            file.write(os.urandom(CHUNK))
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", changing)
    digest, _size = place(fd, store, 0o644, 0)
    os.close(fd)
    assert hashlib.sha256(Path(object_path(store, digest)).read_bytes()).hexdigest() == digest


def test_a_file_that_shrinks_meanwhile(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "source"
    fd = source(path, 40 * CHUNK)
    preadv = os.preadv

    def cutting(*args: Any) -> int:
        os.truncate(path, 20 * CHUNK)
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", cutting)
    digest, size = place(fd, store, 0o644, 0)
    os.close(fd)
    stored = Path(object_path(store, digest)).read_bytes()
    assert (hashlib.sha256(stored).hexdigest(), len(stored)) == (digest, size)


def test_a_hole_at_the_end_stays_one(store: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    fd = source(path, 3 * CHUNK)
    os.truncate(path, 50 * CHUNK)
    digest, size = place(fd, store, 0o644, 0)
    os.close(fd)
    assert (digest, size) == (hashlib.sha256(path.read_bytes()).hexdigest(), 50 * CHUNK)
    assert Path(object_path(store, digest)).stat().st_blocks <= path.stat().st_blocks + 16


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, 9 * CHUNK, 40 * CHUNK - 1])
@pytest.mark.parametrize("hole", [0, 5 * CHUNK])
def test_a_content_arrives_whole(store: str, tmp_path: Path, size: int, hole: int) -> None:
    fd = source(tmp_path / "source", size, hole)
    digest, placed = place(fd, store, 0o640, 7)
    os.close(fd)
    content = (tmp_path / "source").read_bytes()
    assert (digest, placed) == (hashlib.sha256(content).hexdigest(), size + hole)
    target = Path(object_path(store, digest))
    assert target.read_bytes() == content
    assert target.stat().st_blocks <= (tmp_path / "source").stat().st_blocks + 16
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(f"{store}/.incoming") == []


def test_a_full_disk_is_said_and_nothing_stays(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = source(tmp_path / "source", 20 * CHUNK)
    written = 0
    pwrite = os.pwrite

    def filling(out: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 3 * CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(out, data, offset)

    def full(fd: int, out: int, count: int, begin: int, offset: int) -> int:
        if offset >= 3 * CHUNK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy_range(fd, out, count, begin, offset)

    copy_range = os.copy_file_range
    monkeypatch.setattr(os, "pwrite", filling)
    if copy_range is not refuse:
        monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="No space left"):
        place(fd, store, 0o644, 0)
    os.close(fd)
    assert os.listdir(f"{store}/.incoming") == []
    assert not [thread for thread in threading.enumerate() if thread.name == "modal-copy"]
