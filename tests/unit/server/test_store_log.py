"""The log of the store is given its length ahead, and stays one that SQLite reads."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from pathlib import Path

import pytest

from intermodal.server.store.database import WAL_SIZE, Database, lengthen


async def test_a_lengthened_log_holds_what_it_held(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "store.sqlite")
    await database.execute("INSERT INTO meta (key, value) VALUES ('before', '1')")
    log = tmp_path / "store.sqlite-wal"
    lengthen(log, WAL_SIZE)  # the writer is idle
    assert log.stat().st_size == WAL_SIZE
    await database.execute("INSERT INTO meta (key, value) VALUES ('after', '2')")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("store.sqlite*"):  # as it would lie there after a kill -9
        shutil.copy(path, copy)
    (copy / "store.sqlite-shm").unlink()
    found = sqlite3.connect(copy / "store.sqlite")
    assert found.execute("SELECT key FROM meta WHERE key IN ('before', 'after') ORDER BY key").fetchall() == [
        ("after",),
        ("before",),
    ]
    assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    found.close()
    assert log.stat().st_size == WAL_SIZE
    await database.close()


async def test_an_empty_log_of_zeros_is_an_empty_log(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "store.sqlite")
    await database.close()
    (tmp_path / "store.sqlite-wal").write_bytes(b"")
    lengthen(tmp_path / "store.sqlite-wal", 1 << 20)
    again = await Database.open(tmp_path / "store.sqlite")
    await again.execute("INSERT INTO meta (key, value) VALUES ('k', '1')")
    assert await again.row("SELECT value FROM meta WHERE key = 'k'") == ("1",)
    await again.close()


def test_a_log_that_has_no_room_to_be_long_takes_none(tmp_path: Path) -> None:
    log = tmp_path / "store.sqlite-wal"
    log.write_bytes(b"pages" * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            lengthen(log, 16 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.read_bytes() == b"pages" * 1000
