"""The database behind the journal: what it cannot take stays in the journal, and whoever waits for it hears why."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from intermodal.server.store import write_behind
from intermodal.server.store.database import Database
from intermodal.server.store.migrations import Refused
from intermodal.server.store.write_behind import WriteBehind
from modal._protocol.errors import Code, Fault


class Notes:
    """A source that keeps words in the table `meta`."""

    def __init__(self, behind: WriteBehind) -> None:
        self.behind = behind
        self.words: list[str] = []
        self.refused: Exception | None = None
        behind.sources.append(self)

    async def note(self, word: str) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.behind.append("note", (word,), lambda _error: waiter.set_result(None))
        self.words.append(word)
        await waiter

    def collect(self) -> Any:
        words, self.words = self.words, []

        def work(connection: sqlite3.Connection) -> None:
            for word in words:
                redo(connection, word)
            if self.refused is not None:
                raise self.refused

        return work, lambda _result: None


def redo(connection: sqlite3.Connection, word: str) -> None:
    connection.execute("INSERT INTO meta (key, value) VALUES (?, '')", (word,))


async def words(database: Database) -> list[str]:
    return [row[0] for row in await database.rows("SELECT key FROM meta ORDER BY key")]


async def opened(tmp_path: Path, database: Database) -> Notes:
    return Notes(await WriteBehind.open(database, tmp_path, "sv-1", {"note": redo}))


async def test_a_database_that_cannot_be_written_loses_nothing(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_behind, "RETRY", 0.01)
    notes = await opened(tmp_path, database)
    notes.refused = Fault(Code.EXHAUSTED, "the disk is full")
    await notes.note("a")  # acknowledged all the same
    with pytest.raises(Fault, match="disk is full"):
        await notes.behind.settle()
    await notes.note("b")
    assert await words(database) == []
    notes.refused = None
    while await words(database) != ["a", "b"]:  # it is tried again by itself, and what came later follows
        await asyncio.sleep(0.01)
        if not notes.behind._under_way:
            await notes.behind.settle()
    await notes.behind.close()


async def test_what_stayed_in_the_journal_comes_with_the_next_start(tmp_path: Path, database: Database) -> None:
    notes = await opened(tmp_path, database)
    notes.refused = Fault(Code.EXHAUSTED, "the disk is full")
    await notes.note("a")
    await notes.behind.close()
    assert await words(database) == []
    again = await opened(tmp_path, database)
    assert await words(database) == ["a"]
    await again.note("b")
    await again.behind.settle()
    await again.behind.close()
    assert await words(database) == ["a", "b"]


async def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path, database: Database) -> None:
    notes = await opened(tmp_path, database)
    notes.refused = Fault(Code.EXHAUSTED, "the disk is full")
    await notes.note("a")
    await notes.behind.close()
    with pytest.raises(Refused, match="newer Intermodal"):
        await WriteBehind.open(database, tmp_path, "sv-1", {})
