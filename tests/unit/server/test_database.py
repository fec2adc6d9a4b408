"""The writer: durable, grouped, one job's failure its own. The migrations: ours, in order, all or nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from intermodal.server.store.database import Database
from intermodal.server.store.migrations import Refused, known, migrate
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault
from tests.no_room import no_room


async def put(database: Database, key: str, value: str = "") -> None:
    await database.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))


async def keys(database: Database) -> list[str]:
    return [row[0] for row in await database.rows("SELECT key FROM meta ORDER BY key")]


async def test_a_write_is_seen_by_readers_and_survives_reopening(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "store.sqlite")
    await put(database, "a")
    assert await keys(database) == ["a"]
    await database.close()
    again = await Database.open(tmp_path / "store.sqlite")
    assert await keys(again) == ["a"]
    await again.close()


async def test_what_waits_is_committed_together(database: Database) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(_connection: sqlite3.Connection) -> None:
        started.set()
        go.wait(10)

    first = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(started.wait, 10)
    before = database.commits
    others = [asyncio.create_task(put(database, f"k{number}")) for number in range(100)]
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, *others)
    assert database.commits - before == 2  # the slow one, and all that came meanwhile
    assert len(await keys(database)) == 100


async def test_a_job_that_fails_is_undone_alone(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO meta (key, value) VALUES ('half', '')")
        raise ValueError("in the middle")

    results = await asyncio.gather(
        put(database, "a"), database.write(half), put(database, "b"), put(database, "a"), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], ValueError)
    assert results[2] is None
    assert isinstance(results[3], sqlite3.IntegrityError)
    assert await keys(database) == ["a", "b"]


async def test_a_full_disk_is_said_and_harms_nothing(database: Database) -> None:
    pages = await database.write(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await database.write(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 8}").fetchone())
    results = await asyncio.gather(
        put(database, "small"), put(database, "big", "x" * 1_000_000), put(database, "other"), return_exceptions=True
    )
    assert results[0] is None
    assert results[2] is None
    assert isinstance(results[1], Fault)
    assert results[1].code == Code.EXHAUSTED
    assert "full" in results[1].text
    assert str(database.path.parent) in results[1].text
    assert await keys(database) == ["other", "small"]
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchone())
    await put(database, "big", "x" * 1_000_000)
    assert "big" in await keys(database)


async def test_what_could_not_be_committed_has_no_result(tmp_path: Path) -> None:
    """Whether a job was alone or among others: it has run, and nothing of it is there."""
    database = await Database.open(tmp_path / "store.sqlite", prepares=False)
    await put(database, "before")

    def insert(key: str) -> Callable[[sqlite3.Connection], str]:
        def work(connection: sqlite3.Connection) -> str:
            connection.execute("INSERT INTO meta (key, value) VALUES (?, '')", (key,))
            return key

        return work

    def refused(_connection: sqlite3.Connection) -> None:
        raise ValueError("this one is undone alone")

    async def outcomes(*works: Callable[[sqlite3.Connection], Any]) -> list[tuple[Any, Exception | None]]:
        """Of these, in one transaction."""
        heard: list[tuple[Any, Exception | None]] = []
        over = asyncio.Event()
        started, go = threading.Event(), threading.Event()

        def hold(_connection: sqlite3.Connection) -> None:
            started.set()
            go.wait(10)

        def done(result: Any, error: Exception | None) -> None:
            heard.append((result, error))
            if len(heard) == len(works):
                over.set()

        database.write_soon(hold)
        await asyncio.to_thread(started.wait, 10)
        for work in works:
            database.write_soon(work, done)
        go.set()
        await over.wait()
        return heard

    with no_room(database.path):
        for found in (await outcomes(insert("alone")), await outcomes(insert("a"), insert("b"), refused, insert("c"))):
            for result, error in found:
                assert result is None
                assert isinstance(error, (Fault, ValueError))
    assert await keys(database) == ["before"]
    assert await outcomes(insert("a"), insert("b")) == [("a", None), ("b", None)]
    assert await keys(database) == ["a", "b", "before"]
    await database.close()


async def test_close_commits_what_is_queued_and_refuses_more(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "store.sqlite")
    tasks = [asyncio.create_task(put(database, f"k{number:02}")) for number in range(50)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*tasks)
    with pytest.raises(Fault):
        await put(database, "late")
    again = await Database.open(tmp_path / "store.sqlite")
    assert len(await keys(again)) == 50
    await again.close()


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Fault, match="may not write"):
        await database.read(lambda connection: connection.execute("DELETE FROM meta"))


async def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (name)")
    other.close()
    with pytest.raises(Refused, match=r"another program.*INTERMODAL_HOME"):
        await Database.open(path)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await (await Database.open(path)).close()
    ahead = sqlite3.connect(path)
    ahead.execute("PRAGMA user_version = 999")
    ahead.close()
    with pytest.raises(Refused, match=r"newer Intermodal .schema 999"):
        await Database.open(path)


@pytest.mark.parametrize("content", [b"this is no database at all, " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(Refused, match="damaged or no database"):
        await Database.open(path)


async def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be opened"):
        await Database.open(tmp_path / "nowhere" / "store.sqlite")


def test_a_migration_has_a_number_of_its_own() -> None:
    numbers = [number for number, _path in known()]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


def test_a_migration_takes_effect_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "0001_a.sql", tmp_path / "0002_b.sql"
    first.write_text("CREATE TABLE a (x);")
    second.write_text("CREATE TABLE b (x);\nCREATE TABLE a (x);")
    steps = [(1, first), (2, second)]
    connection = sqlite3.connect(tmp_path / "db", isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, tmp_path / "db", steps)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert tables == ["a", "applied_migrations"]
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    second.write_text("CREATE TABLE b (x);")
    assert migrate(connection, tmp_path / "db", steps) == 2
    assert migrate(connection, tmp_path / "db", steps) == 2
    connection.close()


# -- databases that have had something else


class Versions:
    """Migrations as different builds have them, and one database that they take turns with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "db"
        self.connection = sqlite3.connect(self.path, isolation_level=None)

    def step(self, number: int, text: str, name: str = "x") -> tuple[int, Path]:
        path = self.folder / f"{number:04d}_{name}.sql"
        path.write_text(text)
        return number, path

    def migrate(self, *steps: tuple[int, Path]) -> int:
        return migrate(self.connection, self.path, list(steps))

    def tables(self) -> set[str]:
        names = {row[0] for row in self.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        return names - {"applied_migrations"}


@pytest.fixture
def versions(tmp_path: Path) -> Iterator[Versions]:
    found = Versions(tmp_path)
    yield found
    found.connection.close()


def test_a_migration_that_an_unfinished_build_has_left_out_is_made_up_for(versions: Versions) -> None:
    first, second, third = (versions.step(n, f"CREATE TABLE t{n} (x);") for n in (1, 2, 3))
    assert versions.migrate(first, third) == 3
    assert versions.migrate(first, second, third) == 3
    assert versions.tables() == {"t1", "t2", "t3"}
    assert versions.migrate(first, second, third) == 3


def test_one_that_cannot_be_made_up_for_is_named(versions: Versions) -> None:
    first, second = versions.step(1, "CREATE TABLE a (x);"), versions.step(2, "ALTER TABLE a RENAME TO b;")
    third = versions.step(3, "DROP TABLE a;")
    versions.migrate(first, third)
    with pytest.raises(Refused, match=r"lacks migration 0002_x\.sql, .*no such table: a.*INTERMODAL_HOME"):
        versions.migrate(first, second, third)


def test_another_form_of_a_migration_is_refused(versions: Versions) -> None:
    versions.migrate(versions.step(1, "CREATE TABLE a (x);"), versions.step(2, "CREATE TABLE b (x);"))
    with pytest.raises(Refused, match=r"another form of migration 0002_x\.sql"):
        versions.migrate(versions.step(1, "CREATE TABLE a (x);"), versions.step(2, "CREATE TABLE b (x, y);"))


def test_a_migration_that_nobody_knows_is_refused(versions: Versions) -> None:
    first, third = versions.step(1, "CREATE TABLE a (x);"), versions.step(3, "CREATE TABLE c (x);")
    versions.migrate(first, versions.step(2, "CREATE TABLE b (x);", "of_a_branch"), third)
    with pytest.raises(Refused, match=r"had migration 0002_of_a_branch\.sql, which this Intermodal does not know"):
        versions.migrate(first, third)


@pytest.mark.parametrize("left_out", [None, 2, 3])
def test_a_database_without_a_record_is_looked_at(versions: Versions, left_out: int | None) -> None:
    """From before there was one: what it has had shows in its tables and columns."""
    steps = [
        versions.step(1, "CREATE TABLE a (x); CREATE TABLE gone (x);"),
        versions.step(2, "CREATE TABLE b (x);"),
        versions.step(3, "ALTER TABLE a ADD COLUMN y;"),
        versions.step(4, "DROP TABLE gone; CREATE TABLE d (x);"),
    ]
    versions.migrate(*(step for step in steps if step[0] != left_out))
    versions.connection.execute("DROP TABLE applied_migrations")
    assert versions.migrate(*steps) == 4
    assert versions.tables() == {"a", "b", "d"}
    assert [row[1] for row in versions.connection.execute("PRAGMA table_info(a)")] == ["x", "y"]
    numbers = [row[0] for row in versions.connection.execute("SELECT number FROM applied_migrations ORDER BY number")]
    assert numbers == [1, 2, 3, 4]


async def test_a_store_of_an_earlier_version_gets_its_record(tmp_path: Path) -> None:
    """Its volumes have moved to their own database: their tables are not missed."""
    store = await Store.open(tmp_path / "store.sqlite")
    await store.close()
    for name in ("store.sqlite", "volumes.sqlite"):
        old = sqlite3.connect(tmp_path / name)
        old.execute("DROP TABLE applied_migrations")
        old.commit()
        before = old.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()
        old.close()
        await (await Store.open(tmp_path / "store.sqlite")).close()
        new = sqlite3.connect(tmp_path / name)
        after = [row for row in new.execute("SELECT name FROM sqlite_schema ORDER BY name") if "applied" not in row[0]]
        new.close()
        assert after == before
