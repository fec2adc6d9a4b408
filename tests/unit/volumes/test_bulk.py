"""Many entries at once do exactly what they do one by one; and volumes move out of an older store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.services.volumes import Volumes
from intermodal.server.store import volume_bulk
from intermodal.server.store.database import Database
from intermodal.server.store.migrations import VOLUMES, known, migrate
from intermodal.server.store.store import VOLUMES_FILE, Store
from intermodal.server.store.volume_edit import VolumeEdit
from intermodal.server.store.volumes import VolumeRow
from modal._protocol.errors import Fault
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry
from tests.unit.volumes.conftest import VOLUME_ID

NAMES = st.sampled_from(["a", "b", "c", "a b", "a0", "ä"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.builds(
    lambda path, kind, size: Entry(path, kind, 0o644, 0, 0, 5, size if kind == FILE else 0, f"content {size}"),
    PATHS, st.sampled_from([FILE, FILE, FILE, DIRECTORY, SYMLINK]), st.integers(0, 2),
)  # fmt: skip
CHANGES = st.one_of(ENTRIES, st.builds(Entry, PATHS, st.sampled_from([REMOVED, CLEARED])))


def volume() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, Path("memory"), known(VOLUMES))
    connection.execute(
        "INSERT INTO volumes (volume_id, environment_id, kind, created_at, used_at) VALUES ('v', 'e', 'volume', 0, 0)"
    )
    return connection


def state(connection: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    tables = (
        "SELECT * FROM volume_files",
        "SELECT * FROM volume_changes",
        "SELECT version, changes, inodes, bytes, superseded FROM volume_versions",
        "SELECT version, inodes, bytes FROM volumes",
    )
    return [connection.execute(table).fetchall() for table in tables]


def commit(changes: list[Entry], at_once: int) -> list[list[tuple[object, ...]]]:
    """The first half makes one version, the other the next."""
    connection = volume()
    before, volume_bulk.WORTH_IT = volume_bulk.WORTH_IT, at_once
    try:
        for half in (changes[: len(changes) // 2], changes[len(changes) // 2 :]):
            edit = VolumeEdit(connection, "v")
            edit.apply(half)
            edit.finish("commit")
    finally:
        volume_bulk.WORTH_IT = before
    return state(connection)


def unambiguous(changes: list[Entry]) -> list[Entry]:
    """As scans give them: one entry for a path, and nothing below what is no directory."""
    found: dict[str, Entry] = {entry.path: entry for entry in changes}
    others = {entry.path for entry in found.values() if entry.kind not in (DIRECTORY, CLEARED)}
    return sorted(entry for entry in found.values() if not any(entry.path.startswith(f"{one}/") for one in others))


@settings(max_examples=150, deadline=None)
@given(st.lists(CHANGES, max_size=12), st.lists(CHANGES, max_size=12))
def test_at_once_or_one_by_one(first: list[Entry], second: list[Entry]) -> None:
    first, second = unambiguous(first), unambiguous(second)
    size = max(len(first), len(second))
    first += [Entry("pad/x", FILE, 0, 0, 0, 0, 0, "")] * (size - len(first))
    second += [Entry("pad/x", FILE, 0, 0, 0, 0, 0, "")] * (size - len(second))
    assert commit([*first, *second], 1) == commit([*first, *second], 1_000_000)


async def test_an_upload_of_many_files_says_what_is_in_its_way(volumes: Volumes, store: Store) -> None:
    files = [Entry(f"d/{number}", DIRECTORY, 0o755) for number in range(volume_bulk.WORTH_IT)]
    await volumes.upload(VOLUME_ID, files, force=False)
    again = [Entry(f"d/{number}", SYMLINK, 0o777, 0, 0, 0, 1, "x") for number in range(volume_bulk.WORTH_IT)]
    with pytest.raises(Exception, match="is a directory in the volume: a file cannot take its place"):
        await volumes.upload(VOLUME_ID, again, force=True)
    links = [entry._replace(path=f"e/{entry.path}") for entry in again]
    await volumes.upload(VOLUME_ID, links, force=False)
    with pytest.raises(Exception, match="'e/d/0' is in the volume already: use force=True"):
        await volumes.upload(VOLUME_ID, links, force=False)
    with pytest.raises(Exception, match="is a file in the volume, so nothing can be put below it"):
        await volumes.upload(VOLUME_ID, [entry._replace(path=f"{entry.path}/x") for entry in links], force=True)
    row = await store.volumes.get(VOLUME_ID)
    assert row is not None
    assert (row.version, row.inodes) == (2, 2 * volume_bulk.WORTH_IT + 3)


async def test_a_small_version_is_made_while_a_large_one_is_laid_out(
    volumes: Volumes, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume_bulk, "STEP", 1)
    now = time.time()
    environment = (await store.environments.all())[0].environment_id
    await store.volumes.create(VolumeRow("vo-small", environment, "volume", "small", 0, 0, 0, 0, now, now))
    files = [Entry(f"d/{number}", DIRECTORY, 0o755) for number in range(10 * volume_bulk.WORTH_IT)]
    large = asyncio.create_task(volumes.commit(VOLUME_ID, [Entry("old", REMOVED), *files]))
    begun = store.volumes._database.commits + 5
    while store.volumes._database.commits < begun:
        await asyncio.sleep(0)
    assert await volumes.commit("vo-small", [Entry("x", DIRECTORY, 0o755)]) == 1
    assert not large.done()
    assert await large == 1
    assert len(await store.volumes.children(VOLUME_ID, "d", False)) == len(files)
    with pytest.raises(Fault, match="does not exist any more"):
        await volumes.commit("vo-gone", files)
    await store.volumes.used(VOLUME_ID)
    assert await store.volumes._database.write(
        lambda connection: connection.execute("SELECT count(*) FROM temp.sqlite_schema").fetchone()
    ) == (0,)  # nothing is left of what was laid out


async def test_volumes_of_an_older_store_are_moved(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, path, [step for step in known() if step[0] < 16])
    now = time.time()
    old.execute("INSERT INTO volumes VALUES (7, 'vl-1', 'en-1', 'volume', 'kept', 0, 1, 1, 3, ?, ?)", (now, now))
    old.execute("INSERT INTO volume_files VALUES (7, x'', CAST('x' AS BLOB), 1, 420, 0, 0, 1, 3, CAST('ab' AS BLOB))")
    old.execute("INSERT INTO volume_versions (volume, version, created_at) VALUES (7, 1, ?)", (now,))
    old.close()
    for _ in range(2):  # the second start finds them where they are
        store = await Store.open(path)
        row = await store.volumes.by_name("en-1", "volume", "kept")
        assert row is not None
        assert (row.volume_id, row.version) == ("vl-1", 1)
        assert await store.volumes.children("vl-1", "", True) == [Entry("x", FILE, 420, 0, 0, 1, 3, "ab")]
        assert not await store.database.row("SELECT 1 FROM sqlite_schema WHERE name LIKE 'volume%'")
        await store.close()


async def test_a_large_version_holds_up_no_other_writer(tmp_path: Path) -> None:
    """Volumes have a writer of their own: while it works, the store's commits."""
    import threading

    store = await Store.open(tmp_path / "store.sqlite")
    begun, go_on = threading.Event(), threading.Event()
    now = time.time()
    await store.volumes._database.execute(
        "INSERT INTO volumes (volume_id, environment_id, kind, created_at, used_at) VALUES ('v', 'e', 'volume', ?, ?)",
        (now, now),
    )

    def work(_edit: VolumeEdit) -> None:
        begun.set()
        assert go_on.wait(30)

    edit = asyncio.create_task(store.volumes.edit("v", "upload", work))
    assert await asyncio.to_thread(begun.wait, 30)
    await store.set_setting("written", "meanwhile")
    assert not edit.done()
    go_on.set()
    await edit
    await store.close()
    assert (tmp_path / VOLUMES_FILE).exists()
    assert isinstance(store.database, Database)
