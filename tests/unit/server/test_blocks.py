"""Files that are written in whole blocks past the page cache."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.server.store import blocks as blocks_module
from intermodal.server.store.blocks import BLOCK, ROOM, Blocks

SIZE = 1 << 21


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    opened = []
    for name in ("a", "b"):
        opened.append(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT))
        os.pwrite(opened[-1], b"x" * SIZE, 0)
    yield opened
    for file in opened:
        os.close(file)


@pytest.fixture
def blocks(files: list[int]) -> Iterator[Blocks]:
    made = Blocks.of(files)
    if made is None:
        pytest.skip("this file system has no direct writes")
    yield made
    made.close()


def test_pieces_of_any_length_follow_each_other(blocks: Blocks, files: list[int]) -> None:
    chance = random.Random(1)
    at, expected = 0, b""
    while at < SIZE - ROOM:
        data = chance.randbytes(chance.choice([1, 30, BLOCK - 1, BLOCK, BLOCK + 1, 50_000]))
        assert blocks.put(0, data, at)
        at, expected = at + len(data), expected + data
        assert os.pread(files[0], len(data), at - len(data)) == data
    assert os.pread(files[0], at, 0) == expected


def test_what_is_in_a_block_already_stays(blocks: Blocks, files: list[int]) -> None:
    os.pwrite(files[0], b"before" * 2000, 0)
    assert blocks.put(0, b"behind", 12_000)
    assert blocks.put(1, b"elsewhere", 100)
    assert blocks.put(0, b"and on", 12_006)
    assert os.pread(files[0], 12_012, 0) == b"before" * 2000 + b"behindand on"
    assert os.pread(files[1], 109, 0) == b"x" * 100 + b"elsewhere"


def test_large_pieces_are_left_to_others(blocks: Blocks, files: list[int]) -> None:
    assert not blocks.put(0, bytes(ROOM + 1), 0)
    assert os.pread(files[0], 1, 0) == b"x"
    assert blocks.put(0, b"small", ROOM)


def test_a_file_system_that_refuses_is_not_asked_again(
    blocks: Blocks, files: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(blocks_module.os, "pwrite", refuse)
    assert not blocks.put(0, b"a", 0)
    monkeypatch.undo()
    assert not blocks.put(0, b"a", 0)
