"""Parts of large objects that stay when their upload is interrupted."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from intermodal.begun import CHUNK, Begun
from intermodal.contents import Contents
from modal._protocol.errors import Code, Fault

CONTENT = os.urandom(3 * CHUNK + 7)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    return Begun(tmp_path / ".incoming")


def send(begun: Begun, target: Path, begin: int, end: int, token: str = "t", commit: bool = False) -> None:
    writer = begun.writer(target, DIGEST, token, begin)
    assert writer is not None
    with writer:
        assert writer.size == begin
        writer.write(CONTENT[begin:end])
        if commit:
            writer.commit()


def test_an_upload_goes_on_where_it_was_interrupted(begun: Begun, tmp_path: Path) -> None:
    target = tmp_path / "ab" / DIGEST
    assert begun.size(DIGEST, "t") == 0
    send(begun, target, 0, CHUNK + 5)
    assert begun.size(DIGEST, "another") == CHUNK + 5
    send(begun, target, CHUNK + 5, 2 * CHUNK)
    begun = Begun(tmp_path / ".incoming")  # of another process
    send(begun, target, 2 * CHUNK, len(CONTENT), commit=True)
    assert target.read_bytes() == CONTENT
    assert begun.size(DIGEST, "t") == 0
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_what_is_not_there_cannot_be_gone_on_with(begun: Begun, tmp_path: Path) -> None:
    send(begun, tmp_path / "x", 0, 100)
    with pytest.raises(Fault) as caught:
        send(begun, tmp_path / "x", 200, 300)
    assert caught.value.code == Code.CONFLICT
    send(begun, tmp_path / "x", 50, len(CONTENT), commit=True)  # less than what is there may be gone on with


def test_a_part_that_is_something_else_is_deleted_at_the_end(begun: Begun, tmp_path: Path) -> None:
    send(begun, tmp_path / "x", 0, CHUNK)
    path = tmp_path / ".incoming" / f"begun-{DIGEST}"
    path.write_bytes(bytes(CHUNK))  # as a crash of the machine can leave it
    with pytest.raises(Fault, match="changed on its way"):
        send(begun, tmp_path / "x", CHUNK, len(CONTENT), commit=True)
    assert not path.exists()
    assert not (tmp_path / "x").exists()
    assert begun.size(DIGEST, "t") == 0


def test_the_same_upload_takes_over_and_others_go_their_own_way(begun: Begun, tmp_path: Path) -> None:
    first = begun.writer(tmp_path / "x", DIGEST, "first", 0)
    assert first is not None
    with first:
        first.write(CONTENT[:10])
        assert begun.size(DIGEST, "second") == 0
        assert begun.writer(tmp_path / "x", DIGEST, "second", 0) is None
        with pytest.raises(Fault, match="under way"):
            begun.writer(tmp_path / "x", DIGEST, "second", 10)
        assert begun.size(DIGEST, "first") == 10  # its connection was lost, and the server has not noticed
        for late in (lambda: first.write(b"late"), first.commit):
            with pytest.raises(Fault, match="another connection"):
                late()
        again = begun.writer(tmp_path / "x", DIGEST, "first", 10)
        assert again is not None
        with again:
            again.write(CONTENT[10:])
            again.commit()
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_old_parts_are_collected_and_new_ones_survive_a_start(tmp_path: Path) -> None:
    contents = Contents(tmp_path)
    contents.prepare()
    send(contents.begun, tmp_path / "x", 0, 10)
    contents.prepare()
    assert contents.begun.size(DIGEST, "t") == 10
    path = tmp_path / ".incoming" / f"begun-{DIGEST}"
    contents.begun.collect(path.stat().st_mtime - 1)
    assert path.exists()
    contents.begun.collect(path.stat().st_mtime)
    assert not path.exists()
