"""The store of layers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.images import layers as module
from intermodal.worker.images.layers import Layer, LayerStore
from intermodal.worker.images.scrub import Scrub
from intermodal.worker.images.trees import remove_tree


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(Home(tmp_path))


def make(store: LayerStore, key: str, text: str = "x") -> Layer:
    with store.stage() as stage:
        (stage / "upper/file").write_text(text)
        return store.adopt(stage / "upper", Layer(key, key, step="RUN x"))


def test_a_layer_is_found_by_its_key_also_by_the_next_process(store: LayerStore, tmp_path: Path) -> None:
    assert store.find("aa") is None
    layer = make(store, "aa")
    assert store.find("aa") == layer
    assert layer.files == 1
    assert layer.size == 4096
    assert LayerStore(Home(tmp_path)).find("aa") == layer
    assert (store.path(layer.id) / "file").read_text() == "x"


def test_a_layer_in_the_making_leaves_nothing_when_it_fails(store: LayerStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.stage() as stage:
        (stage / "upper/file").write_text("half")
        raise RuntimeError
    assert list((tmp_path / "layers").iterdir()) == []


def test_half_layers_of_an_ended_process_are_removed(store: LayerStore, tmp_path: Path) -> None:
    (tmp_path / "layers/.new-4194305-0/upper").mkdir(parents=True)
    (tmp_path / "layers/.new-1-0/upper").mkdir(parents=True)
    store.clean()
    assert [path.name for path in (tmp_path / "layers").iterdir()] == [".new-1-0"]


def test_archives_without_their_layer_are_removed(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = tmp_path / "layers"
    (layers / "aa").mkdir(parents=True)
    names = ["aa.tar", "aa.erofs", "bb.tar", "bb.erofs"]
    for name in names:
        (layers / name).write_text("x")
    store.clean()  # another process may be about to give bb its directory
    assert sorted(path.name for path in layers.iterdir() if path.is_file()) == sorted(names)
    monkeypatch.setattr(module, "ORPHANED", -1.0)
    store.clean()
    assert sorted(path.name for path in layers.iterdir() if path.is_file()) == ["aa.erofs", "aa.tar"]


def test_a_layer_without_its_directory_is_not_there(store: LayerStore) -> None:
    layer = make(store, "aa")
    remove_tree(store.path(layer.id))
    assert store.find("aa") is None
    assert make(store, "aa", "again").id == "aa"
    assert store.find("aa") is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "aa"}', '{"unknown": 1}'])
def test_a_record_that_cannot_be_read_is_as_none(store: LayerStore, tmp_path: Path, text: str) -> None:
    make(store, "aa")
    (tmp_path / "layers/aa.json").write_text(text)
    assert LayerStore(Home(tmp_path)).find("aa") is None


def test_a_layer_built_again_leaves_the_old_directory_to_those_who_run_on_it(store: LayerStore) -> None:
    first = make(store, "aa", "old")
    second = make(store, "aa", "new")
    assert first.id != second.id
    assert (store.path(first.id) / "file").read_text() == "old"
    assert store.find("aa") == second


def test_a_layer_is_trusted_after_a_crash_only_when_the_disk_had_it(
    store: LayerStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "aa")
    store.sync(make(store, "bb"))
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    after = LayerStore(Home(tmp_path))
    assert after.find("aa") is None
    assert after.find("bb") is not None


async def test_one_process_at_a_time_builds_a_layer(store: LayerStore, tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    program = (
        "import asyncio, sys\n"
        "from intermodal.home import Home\n"
        "from intermodal.worker.images.layers import LayerStore\n"
        "async def main():\n"
        f" async with LayerStore(Home({str(tmp_path)!r})).locked('aa'):\n"
        "  print('locked', flush=True)\n"
        "  sys.stdin.readline()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdin
    with process:
        process.stdout.readline()
        entered = asyncio.Event()

        async def enter() -> None:
            async with store.locked("aa"):
                entered.set()

        task = asyncio.create_task(enter())
        async with store.locked("bb"):  # another layer waits for nobody
            pass
        assert not entered.is_set()
        process.stdin.close()
        await task
    assert list((tmp_path / "layers/.locks").iterdir()) == []


def test_a_tree_with_forbidding_modes_is_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/file").write_text("x")
    (tree / "inner").chmod(0)
    remove_tree(tree)
    assert not tree.exists()
    remove_tree(tree)


# -- damage
def test_damage_shows_in_names_and_properties_or_in_the_content(store: LayerStore) -> None:
    with store.stage() as stage:
        upper = stage / "upper"
        (upper / "etc").mkdir()
        (upper / "etc/conf").write_text("content")
        (upper / "link").symlink_to("etc/conf")
        layer = store.adopt(upper, Layer("aa", "aa"))
    assert store.is_sound(layer) and layer.shape
    store.fingerprint(store.sync(layer))
    synced = store.find("aa")
    assert synced is not None and synced.digest
    path = store.path("aa") / "etc/conf"
    before = path.stat()
    path.write_text("c0ntent")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.is_sound(synced)  # a disk that lost a byte changed nothing else
    assert not store.is_sound(synced, content=True)
    path.write_text("content, and more")
    assert not store.is_sound(synced)
    path.unlink()
    assert not store.is_sound(synced)
    store.discard(synced)
    assert store.find("aa") is None
    assert list(store.path("").iterdir()) == []
    store.discard(synced)  # again: nothing happens


async def test_a_layer_is_looked_at_once_and_a_damaged_one_taken_out_of_use(store: LayerStore) -> None:
    make(store, "aa")
    layer = make(store, "bb")
    scrub = Scrub(store)
    assert scrub.untrusted(["aa", "bb"]) == ["aa", "bb"]
    (store.path("bb") / "file").write_text("changed")
    await scrub.later(["aa", "bb", "gone"])
    assert scrub.untrusted(["aa", "bb"]) == ["bb"]
    assert store.find("bb") is None
    assert not await scrub.first_use(layer)


async def test_every_byte_is_read_once_a_week(store: LayerStore) -> None:
    old, new = make(store, "aa"), make(store, "bb")
    for layer in (old, new):
        store.fingerprint(store.sync(layer))
    os.utime(store.about(old), (0, 0))
    assert [layer.id for layer in Scrub(store)._due()] == ["aa"]
    assert await Scrub(store)._check(old, content=True)
    assert Scrub(store)._due() == []
