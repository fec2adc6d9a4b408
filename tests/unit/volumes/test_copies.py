"""Contents on their way into the object store, with and without a thread that writes."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from modal._protocol import objects
from modal._protocol.objects import CHUNK, object_path, place


@pytest.fixture(params=[0, 1 << 60], ids=["overlapped", "in turn"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(objects, "OVERLAPPED_FROM", request.param)
    return str(tmp_path / "store")


def source(path: Path, size: int, hole: int = 0) -> int:
    with path.open("wb") as file:
        file.write(os.urandom(size // 2))
        file.seek(hole, os.SEEK_CUR)
        file.write(os.urandom(size - size // 2))
    return os.open(path, os.O_RDONLY)


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

    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(OSError, match="No space left"):
        place(fd, store, 0o644, 0)
    os.close(fd)
    assert os.listdir(f"{store}/.incoming") == []
    assert not [thread for thread in threading.enumerate() if thread.name == "modal-copy"]
