"""Versions of a volume: each change is one, older ones can be had back, and what differs between two is exact."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.ids import new_id
from intermodal.server.store import volume_edit
from intermodal.server.store.store import Store
from intermodal.server.store.volume_edit import VolumeEdit
from intermodal.server.store.volumes import VERSIONS_KEPT, VolumeRow
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry
from tests.unit.volumes.conftest import VOLUME_ID

Tree = dict[str, Entry]

NAMES = st.sampled_from(["a", "a0", "b", "ü\udcff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CHANGES = st.one_of(
    st.builds(lambda path, content, mode: Entry(path, FILE, mode, 0, 0, 5, len(content), content * 32), PATHS,
              st.sampled_from(["aa", "bb"]), st.sampled_from([0o644, 0o755])),
    st.builds(lambda path: Entry(path, DIRECTORY, 0o755), PATHS),
    st.builds(lambda path: Entry(path, SYMLINK, 0o777, content="over/there"), PATHS),
    st.builds(lambda path: Entry(path, REMOVED), PATHS),
    st.builds(lambda path: Entry(path, CLEARED), PATHS),
)  # fmt: skip


def apply(tree: Tree, change: Entry) -> None:
    """What a change does, said as simply as possible."""
    if change.kind in (REMOVED, CLEARED):
        for path in [path for path in tree if path.startswith(change.path + "/")]:
            del tree[path]
        if change.kind == REMOVED:
            tree.pop(change.path, None)
        return
    above = change.path
    while "/" in above:
        above = above.rpartition("/")[0]
        if above not in tree or tree[above].kind != DIRECTORY:
            tree[above] = Entry(above, DIRECTORY, 0o755, mtime=change.mtime)
    if change.kind != DIRECTORY:
        for path in [path for path in tree if path.startswith(change.path + "/")]:
            del tree[path]
    tree[change.path] = change


def advance(tree: Tree, changes: list[Entry]) -> Tree:
    """As a worker makes a newer tree of an older one."""
    made = dict(tree)
    for entry in changes:
        if entry.kind == REMOVED:
            made = {p: e for p, e in made.items() if p != entry.path and not p.startswith(entry.path + "/")}
        else:
            if entry.kind != DIRECTORY:
                made = {p: e for p, e in made.items() if not p.startswith(entry.path + "/")}
            made[entry.path] = entry
    return made


async def content(store: Store, volume_id: str) -> Tree:
    return {entry.path: entry for entry in await store.volumes.children(volume_id, "", True)}


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(CHANGES, min_size=1, max_size=6), min_size=1, max_size=6))
def test_any_sequence_of_changes(batches: list[list[Entry]], tmp_path_factory: pytest.TempPathFactory) -> None:
    async def check(path: Path) -> None:
        store = await Store.open(path)
        try:
            now = time.time()
            volume_id = new_id("vo")
            await store.volumes.create(VolumeRow(volume_id, "en", "volume", volume_id, 0, 0, 0, 0, now, now))
            tree: Tree = {}
            history: dict[int, Tree] = {0: {}}
            for batch in batches:
                version = await store.volumes.edit(volume_id, "commit", lambda edit, b=batch: edit.apply(b))
                for change in batch:
                    apply(tree, change)
                assert await content(store, volume_id) == tree
                history[version] = dict(tree)
                row = await store.volumes.get(volume_id)
                assert row is not None
                files = [entry.size for entry in tree.values() if entry.kind == FILE]
                assert (row.version, row.inodes, row.bytes) == (version, len(tree), sum(files))
            for version, old in history.items():
                newest, base, changes = await store.volumes.changed(volume_id, version)
                assert newest == max(history)
                assert advance(history[base], changes) == tree
                assert base == version or not version
                assert old == history[version]
            for version, old in history.items():
                if version:
                    await store.volumes.restore(volume_id, version)
                    assert await content(store, volume_id) == old
        finally:
            await store.close()

    asyncio.run(check(tmp_path_factory.mktemp("store") / "store.sqlite"))


def file(path: str, letter: str = "a", size: int = 1) -> Entry:
    return Entry(path, FILE, 0o644, 0, 0, 5, size, letter * 64)


async def commit(store: Store, *changes: Entry) -> int:
    return await store.volumes.edit(VOLUME_ID, "commit", lambda edit: edit.apply(changes))


async def test_nothing_changed_makes_no_version(store: Store) -> None:
    assert await commit(store, file("d/x")) == 1
    assert await commit(store, file("d/x")) == 1
    assert [one.version for one in await store.volumes.versions(VOLUME_ID)] == [1]


async def test_a_version_that_fails_leaves_the_old_one(store: Store) -> None:
    await commit(store, file("x"))

    def work(edit: VolumeEdit) -> None:
        edit.put(file("y"))
        edit.remove("x")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        await store.volumes.edit(VOLUME_ID, "commit", work)
    assert list(await content(store, VOLUME_ID)) == ["x"]


async def test_too_many_files_are_refused_whole(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_edit, "MAX_INODES", 3)
    await commit(store, file("d/x"))
    with pytest.raises(Fault, match="No space left on device") as failed:
        await commit(store, file("d/y"), file("d/z"))
    assert failed.value.code == Code.EXHAUSTED
    assert await commit(store, file("d/y")) == 2


async def test_old_versions_are_forgotten_in_bounds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(VERSIONS_KEPT + 3):
        await commit(store, file("x", "ab"[number % 2], 10))
    await store.volumes.forget_history(time.time())
    kept = await store.volumes.versions(VOLUME_ID)
    assert len(kept) == VERSIONS_KEPT
    assert await store.volumes.changed(VOLUME_ID, 1) == (103, 0, [file("x", "a", 10)])
    with pytest.raises(LookupError):
        await store.volumes.restore(VOLUME_ID, 1)
    monkeypatch.setattr("intermodal.server.store.volumes.SUPERSEDED_KEPT", 25)
    await store.volumes.forget_history(time.time())
    assert len(await store.volumes.versions(VOLUME_ID)) == 2  # whose old files fit
    await store.volumes.forget_history(time.time() + 8 * 86400)
    assert len(await store.volumes.versions(VOLUME_ID)) == 1


async def test_contents_of_kept_versions_are_needed(store: Store) -> None:
    await commit(store, file("x", "a"))
    await commit(store, file("x", "b"))
    assert await store.volumes.contents() == {"a" * 64, "b" * 64}


async def test_an_upload_that_is_sent_again_is_done_once(store: Store) -> None:
    first = await store.volumes.edit(VOLUME_ID, "upload", lambda edit: edit.put(file("x")), "token")

    def refuse(_edit: VolumeEdit) -> None:
        raise AssertionError("done twice")

    assert await store.volumes.edit(VOLUME_ID, "upload", refuse, "token") == first


async def test_a_deleted_volume_takes_nothing(store: Store) -> None:
    await store.volumes.delete([VOLUME_ID])
    with pytest.raises(Fault, match="deleted") as failed:
        await commit(store, file("x"))
    assert failed.value.code == Code.NOT_FOUND
