"""Who ends when the machine's disk is nearly full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from intermodal.worker import disk_guard


class Box:
    def __init__(self, size: int) -> None:
        self.size = size
        self.ended: list[str] = []

    def written(self) -> int:
        return self.size

    async def end_for_disk(self, text: str) -> None:
        self.ended.append(text)


async def test_the_one_that_has_written_most_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_guard, "LOOK_SECONDS", 0.0)
    boxes = [Box(100 << 20), Box(3 << 30), Box(5)]
    looked = 0

    def short(_place: Path) -> bool:
        nonlocal looked
        looked += 1
        return looked == 3

    task = asyncio.ensure_future(disk_guard.guard(tmp_path, lambda: boxes, short))
    while looked < 5:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    task.cancel()
    assert [len(box.ended) for box in boxes] == [0, 1, 0]
    assert "has written most to it (3072 MiB)" in boxes[1].ended[0]


def test_nobody_ends_who_has_written_little() -> None:
    assert disk_guard.most([Box(5), Box(63 << 20)]) is None


def test_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 100_000)
    assert 100_000 <= disk_guard.size_of(tmp_path) < 200_000
    assert not disk_guard.is_short(tmp_path)
