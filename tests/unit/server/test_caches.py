"""Caches of builds: what there is, and what goes first."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.server.services import cache_parts
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


def unpack(cache: Path, name: str) -> Path:
    """What uv keeps of a package: unpacked, and named by a link and a file."""
    archive = cache / "archive-v0" / f"id-of-{name}-0123"
    record = archive / f"{name}-1.0.dist-info/RECORD"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"r" * 4000)
    pointers = cache / "wheels-v8/pypi" / name
    pointers.mkdir(parents=True)
    (pointers / "1.0-py3-none-any").symlink_to(f"../../../archive-v0/{archive.name}")
    (pointers / "1.0-py3-none-any.http").write_bytes(b"\x95\xb0" + archive.name.encode() + b"\x91\x81")
    (pointers / "1.0-py3-none-any.msgpack").write_bytes(b"what its metadata says")
    return archive


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """uv's cache, used just now; the packages in it ten, five and no days ago."""
    cache = Home(tmp_path).cache / "uv-cache"
    ages = {unpack(cache, name).name: age for name, age in (("old", 10), ("middle", 5), ("new", 0))}
    monkeypatch.setattr(cache_parts, "_read_at", lambda path: time.time() - 86400 * ages[path.name])
    return cache


async def test_of_uvs_cache_what_was_not_read_lately_goes_with_all_that_names_it(uv: Path) -> None:
    gone, freed = await Caches(Home(uv.parent.parent)).prune(7 * 86400, 0)
    [one] = gone
    assert (one.name, one.parts) == ("uv-cache", 1)
    assert freed == one.size > 4000
    assert sorted(path.name for path in (uv / "archive-v0").iterdir()) == ["id-of-middle-0123", "id-of-new-0123"]
    assert [path.name for path in (uv / "wheels-v8/pypi/old").iterdir()] == ["1.0-py3-none-any.msgpack"]
    assert len(list((uv / "wheels-v8/pypi/new").iterdir())) == 3


async def test_of_uvs_cache_no_more_goes_than_is_needed(uv: Path) -> None:
    caches = Caches(Home(uv.parent.parent))
    [whole] = await caches.all()
    [gone], _freed = await caches.prune(0.0, whole.size - 1)
    assert gone.parts == 1
    assert not (uv / "archive-v0/id-of-old-0123").exists()
    [gone], _freed = await caches.prune(0.0, 1)  # less than anything but nothing
    assert (gone.name, gone.parts) == ("uv-cache", 0)
    assert not uv.exists()


async def test_uvs_cache_is_left_alone_while_uv_works_on_it(uv: Path) -> None:
    with (uv / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert await Caches(Home(uv.parent.parent)).prune(7 * 86400, 0) == ([], 0)
    assert len(list((uv / "archive-v0").iterdir())) == 3


async def test_downloads_of_pip_and_apt_go_one_by_one(tmp_path: Path) -> None:
    cache = Home(tmp_path).cache
    body, old = cache / "pip-cache/http-v2/a/b/ab.body", 3 * 86400
    debian = cache / "apt-0123/cache/archives/some.deb"
    for path in (body, body.with_suffix(""), debian):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4000)
    assert [len(part.paths) for part in cache_parts.parts_of(cache / "pip-cache", time.time())] == [2]
    assert [len(part.paths) for part in cache_parts.parts_of(cache / "apt-0123", time.time())] == [1]
    assert cache_parts.parts_of(cache / "conda-cache", time.time()) == []
    [part] = cache_parts.parts_of(cache / "pip-cache", time.time() - old)
    assert part.used_at < time.time() - old + 1  # no part was used after its cache
    assert cache_parts.delete(part)
    assert not body.exists()


async def test_what_reads_a_package_counts_as_its_use(tmp_path: Path) -> None:
    cache = tmp_path / "uv-cache"
    archive = unpack(cache, "some")
    [record] = archive.glob("*/RECORD")
    made = os.lstat(record).st_ctime
    os.utime(record, (made + 1000, 0))
    [part] = cache_parts.parts_of(cache, made + 9e9)
    assert part.used_at == pytest.approx(made + 1000 + cache_parts.DAY, abs=1)
