"""Caches of builds: what there is, and what goes first."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.server.services.caches import Caches


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Four caches, the first one used last, of 8, 4, 4 and 4 KiB."""
    home = Home(tmp_path)
    names = ("uv-cache", "apt-0123", "dockerfile/abc", "registry/pulls/0a1b")
    for age, name in enumerate(names):
        path = home.cache / name
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"x" * (8000 if age == 0 else 4000))
        os.utime(path, (0, time.time() - age * 86400 - 10))
    for note in ("registry/tags", "pythons"):
        (home.cache / note).mkdir(parents=True)
        (home.cache / note / "note").write_text("{}")
    return home


async def test_caches_are_listed_with_their_sizes_most_recently_used_first(home: Home) -> None:
    found = await Caches(home).all()
    assert [one.name for one in found] == ["uv-cache", "apt-0123", "dockerfile/abc", "registry/pulls/0a1b"]
    assert [one.size for one in found] == [8192, 4096, 4096, 4096]
    assert found[1].what == "Debian packages"


async def test_the_least_recently_used_go_first_until_the_rest_is_small_enough(home: Home) -> None:
    gone, freed = await Caches(home).prune(0.0, 13000)
    assert [one.name for one in gone] == ["registry/pulls/0a1b", "dockerfile/abc"]
    assert freed == 8192
    assert [one.name for one in await Caches(home).all()] == ["uv-cache", "apt-0123"]


async def test_those_that_were_used_lately_are_spared(home: Home) -> None:
    gone, _freed = await Caches(home).prune(1.5 * 86400, 0)
    assert [one.name for one in gone] == ["registry/pulls/0a1b", "dockerfile/abc"]


async def test_all_go_but_what_images_depend_on_and_what_is_being_pulled(home: Home) -> None:
    with (home.cache / "registry/pulls/0a1b.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        gone, _freed = await Caches(home).prune(0.0, 0)
    assert [one.name for one in gone] == ["dockerfile/abc", "apt-0123", "uv-cache"]
    assert [one.name for one in await Caches(home).all()] == ["registry/pulls/0a1b"]
    assert (home.cache / "registry/tags/note").exists()
    assert (home.cache / "pythons/note").exists()
    assert [path.name for path in home.cache.iterdir() if path.name.startswith(".")] == []
