"""How long, and how much of, what could be written again is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from intermodal import spares
from intermodal.spares import Spares, remove_all, spare_of


def made(path: Path, size: int = 100) -> tuple[Path, int]:
    path.with_name(path.name + ".spare").write_bytes(bytes(size))
    found = spare_of(path)
    assert found is not None
    return found


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def removed(kept: Spares) -> None:
    while kept._removals:
        await asyncio.wait(kept._removals)


async def test_they_go_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "KEPT", 0.0)
    kept = Spares()
    for name in ("a", "b"):
        kept.keep(*made(tmp_path / name))
    loop = asyncio.get_running_loop()
    while names(tmp_path):
        tick = loop.create_future()
        loop.call_later(0, tick.set_result, None)
        await tick
        await removed(kept)
    kept.keep(*made(tmp_path / "c"))  # and again, after all were gone
    while names(tmp_path):
        await asyncio.sleep(0)
        await removed(kept)


async def test_the_oldest_go_when_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "MOST", 250)
    kept = Spares()
    for name in "abcd":
        kept.keep(*made(tmp_path / name))
    await removed(kept)
    assert names(tmp_path) == ["c.spare", "d.spare"]
    kept.close()
    assert names(tmp_path) == []


async def test_a_container_of_little_memory_keeps_no_large_one(tmp_path: Path) -> None:
    kept = Spares()
    kept.keep(*made(tmp_path / "large", 101), memory=400)
    kept.keep(*made(tmp_path / "fits", 100), memory=400)
    await removed(kept)
    assert names(tmp_path) == ["fits.spare"]
    kept.close()


async def test_what_was_taken_meanwhile_is_not_missed(tmp_path: Path) -> None:
    kept = Spares()
    path, size = made(tmp_path / "a")
    kept.keep(path, size)
    path.rename(tmp_path / "value")
    kept.close()
    assert names(tmp_path) == ["value"]


def test_only_plain_files_count(tmp_path: Path) -> None:
    (tmp_path / "link.spare").symlink_to(tmp_path)
    (tmp_path / "folder.spare").mkdir()
    assert spare_of(tmp_path / "link") is spare_of(tmp_path / "folder") is spare_of(tmp_path / "nothing") is None
    remove_all(tmp_path)
    remove_all(tmp_path / "nothing")
    assert names(tmp_path) == ["folder.spare"]
