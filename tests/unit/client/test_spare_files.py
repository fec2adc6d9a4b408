"""Files of large values that are written again: never while anybody could see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modal import _serialization as s
from modal import _spare_files
from tests.unit.client.heap import LARGE as SIZE
from tests.unit.client.heap import full_heap

__all__ = ["full_heap"]
ONE = b"1" * SIZE
TWO = b"2" * SIZE


@pytest.fixture(autouse=True)
def nothing_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_spare_files, "_spares", [])
    yield


def write(value: object, directory: Path, audience: str = "app") -> Path:
    return directory / s.dump(value, str(directory), audience=audience).blob


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_the_file_of_a_value_that_is_gone_becomes_the_next_one(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    number = inode(first)
    first.unlink()
    second = write(TWO, tmp_path)
    assert inode(second) == number and second.stat().st_nlink == 2
    assert s.load_file(str(second)) == TWO
    assert sorted(tmp_path.iterdir()) == sorted([second, second.with_name(second.name + ".spare")])


def test_a_smaller_value_ends_where_it_ends(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    first.unlink()
    second = write(TWO[: SIZE // 2], tmp_path)
    assert second.stat().st_size < SIZE // 2 + 10_000
    assert b"1" not in second.read_bytes()
    assert s.load_file(str(second)) == TWO[: SIZE // 2]


def test_a_value_that_is_still_wanted_stays(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    second = write(TWO, tmp_path)
    assert inode(first) != inode(second)
    assert s.load_file(str(first)) == ONE and s.load_file(str(second)) == TWO


@pytest.mark.usefixtures("full_heap")
def test_what_is_mapped_or_open_is_not_written_over(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    value, number = s.load_file(str(first)), inode(first)
    first.unlink()
    second = write(TWO, tmp_path)
    assert inode(second) != number and value == ONE
    with second.open("rb"):
        second.unlink()
        third = write(ONE, tmp_path)
        assert inode(third) not in (number, inode(second.with_name(second.name + ".spare")))
    del value
    fourth = write(TWO, tmp_path)  # nobody has the first one any more
    assert inode(fourth) == number and s.load_file(str(fourth)) == TWO and s.load_file(str(third)) == ONE


def test_nor_is_what_another_process_has_open(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    number = inode(first)
    code = "import sys; file = open(sys.argv[1], 'rb'); print('open', flush=True); sys.stdin.read()"
    reader = subprocess.Popen([sys.executable, "-c", code, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with reader:
        assert reader.stdout is not None and reader.stdin is not None
        reader.stdout.readline()
        first.unlink()
        assert inode(write(TWO, tmp_path)) != number
        reader.stdin.close()


def test_another_link_of_the_file_keeps_it(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    number = inode(first)
    first.rename(tmp_path / "elsewhere")
    assert inode(write(TWO, tmp_path)) != number
    assert s.load_file(str(tmp_path / "elsewhere")) == ONE


def test_who_could_not_read_the_old_value_gets_another_file(tmp_path: Path) -> None:
    first = write(ONE, tmp_path, "ap-1")
    number = inode(first)
    first.unlink()
    assert inode(write(TWO, tmp_path, "ap-2")) != number
    assert inode(write(TWO, tmp_path, "ap-1")) == number


@pytest.mark.parametrize("value, audience", [(ONE, ""), (b"1" * (1 << 20), "app")])
def test_stored_and_smaller_values_have_no_second_name(tmp_path: Path, value: bytes, audience: str) -> None:
    path = write(value, tmp_path, audience)
    assert list(tmp_path.iterdir()) == [path] and path.stat().st_nlink == 1


def test_a_second_name_that_was_removed_is_not_missed(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    first.unlink()
    first.with_name(first.name + ".spare").unlink()
    assert s.load_file(str(write(TWO, tmp_path))) == TWO


def test_only_so_much_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spare_files, "MOST", 2 * SIZE + 100_000)
    values = [write(ONE, tmp_path) for _ in range(4)]
    spares = {path.name for path in tmp_path.glob("*.spare")}
    assert spares == {value.name + ".spare" for value in values[2:]}


def test_what_cannot_be_pickled_leaves_nothing(tmp_path: Path) -> None:
    first = write(ONE, tmp_path)
    first.unlink()
    with pytest.raises(Exception, match="cannot be serialized"):
        write([TWO, (i for i in ())], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_leases_or_links_there_are_fresh_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(ONE, tmp_path)
    number = inode(first)
    first.unlink()

    def refuse(*_: object) -> int:
        raise OSError(22, "no leases here")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.fcntl", refuse)
        assert inode(write(TWO, tmp_path)) != number
    monkeypatch.setattr(os, "link", refuse)
    assert s.load_file(str(write(ONE, tmp_path))) == ONE
