"""Large `bytes` whose memory is the file they come from: what they hold, what they outlive, and when they are read."""

from __future__ import annotations

import ctypes
import os
import pickle
import platform
from pathlib import Path
from typing import Any

import pytest

from modal import _mapped_bytes
from modal import _serialization as s
from modal.exception import DeserializationError
from tests.unit.client.heap import LARGE, full_heap

__all__ = ["full_heap"]

DATA = os.urandom(1 << 16) * (LARGE >> 16) + b"tail"
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library places memory differently")


def written(value: Any, directory: Path) -> str:
    return str(directory / s.dump(value, str(directory)).blob)


@glibc
@pytest.mark.usefixtures("full_heap")
def test_a_large_bytes_is_mapped_and_outlives_its_file(tmp_path: Path) -> None:
    path = written(DATA, tmp_path)
    before = _mapped_bytes.mapped()
    value = s.load_file(path)
    assert _mapped_bytes.mapped() - before >= LARGE - 2 * _mapped_bytes.PAGE
    os.unlink(path)
    assert type(value) is bytes and value == DATA and hash(value) == hash(DATA) and value[-4:] == b"tail"
    assert s.load(s.dumps(value)) == DATA
    del value
    assert _mapped_bytes.mapped() == before


@glibc
@pytest.mark.usefixtures("full_heap")
def test_all_large_pieces_of_a_value_are_mapped(tmp_path: Path) -> None:
    value = [{"first": DATA, "small": [b"x" * 70_000, "y" * 300_000]}, bytearray(DATA), DATA + b"2", 1.5]
    path = written(value, tmp_path)
    before = _mapped_bytes.mapped()
    loaded = s.load_file(path)
    assert loaded == value
    assert _mapped_bytes.mapped() - before >= 2 * LARGE - 4 * _mapped_bytes.PAGE
    loaded[1][0:3] = b"new"  # a bytearray is a copy of its own
    assert s.load_file(path) == value


def test_what_is_written_is_a_pickle_like_any_other(tmp_path: Path) -> None:
    value = [DATA, {"more": DATA + b"2"}]
    with open(written(value, tmp_path), "rb") as file:
        assert pickle.load(file) == value


@glibc
@pytest.mark.usefixtures("full_heap")
def test_what_code_of_another_language_writes_into_it_stays_its_own(tmp_path: Path) -> None:
    path = written(DATA, tmp_path)
    value, other = s.load_file(path), s.load_file(path)
    place = (ctypes.c_char * 4).from_address(id(value) + bytes.__basicsize__ - 1 + (1 << 20))
    place[:] = b"new!"
    assert value[1 << 20 :][:4] == b"new!" and other == DATA == s.load_file(path)


@pytest.mark.parametrize("position", [0, 1, 41, 42, 43, 47, 48, 49, 4095, 4096, 123_456_789])
def test_padding_brings_what_follows_to_its_place(position: int) -> None:
    pad = _mapped_bytes.padding(position)
    assert (position + len(pad)) % _mapped_bytes.PAGE == _mapped_bytes.OFFSET
    assert len(pad) <= _mapped_bytes.PAGE + 6
    assert pickle.loads(b"\x80\x05]" + pad + b".") == []


def test_no_more_than_so_much_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mapped_bytes, "MOST", LARGE)  # and the value is a little larger
    path = written(DATA, tmp_path)
    before = _mapped_bytes.mapped()
    assert s.load_file(path) == DATA
    value = s.load_file(path)
    assert value == DATA and _mapped_bytes.mapped() == before


def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    path = written(DATA, tmp_path)
    os.truncate(path, LARGE // 2)
    with pytest.raises(DeserializationError):
        s.load_file(path)


def test_where_mapping_fails_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _mapped_bytes._find()
    failed = ctypes.c_void_p(-1).value
    path = written(DATA, tmp_path)
    for calls in (real._replace(mmap=lambda *_: failed), real._replace(mremap=lambda *_: failed)):
        monkeypatch.setattr(_mapped_bytes, "_calls", calls)
        before = _mapped_bytes.mapped()
        value = s.load_file(path)
        assert value == DATA and _mapped_bytes.mapped() == before
