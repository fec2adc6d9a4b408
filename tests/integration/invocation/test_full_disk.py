"""What a full disk does not take is stored as soon as there is room, and nobody believes it safe before."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from intermodal.server import spawns
from intermodal.server.store.calls import CallStore, NewCall, NewInput
from intermodal.server.store.database import Database
from modal._protocol.errors import Code, Fault
from modal.exception import InternalFailure, ResourceExhaustedError
from tests.integration.invocation.rig import rig
from tests.integration.invocation.test_answers import MODULE, runs, until
from tests.no_room import no_room


def full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


async def test_results_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawns, "RETRY_SECONDS", 0.05)
    finish, tried = CallStore._finish, []

    def no_room(self: CallStore, connection: sqlite3.Connection, rows: Sequence[Any]) -> list[str]:
        tried.append(len(rows))
        if len(tried) <= 4:
            raise full()
        return finish(self, connection, rows)

    monkeypatch.setattr(CallStore, "_finish", no_room)
    path = tmp_path / "runs"
    async with rig() as it:
        it.write("program", MODULE)
        it.function("fu-note", "program", "note")
        call_id = await it.call("fu-note").spawn.aio(1, str(path))
        waiting = asyncio.create_task(it.call("fu-note").get.aio(call_id))
        await until(lambda: len(tried) >= 2)
        assert not waiting.done()
        container = next(iter(it.invocation.dispatch.containers.values()))
        assert container.safe_frames() < container.frames, "its worker must keep what is not on the disk"
        assert await waiting == 1
        await until(lambda: container.safe_frames() == container.frames)
        assert runs(path) == {"1": 1}
        assert await it.store.calls.count_pending() == {}


async def test_inputs_that_find_no_room_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and nothing of them is left."""
    add, refuse = CallStore._add, [True]

    def no_room(
        self: CallStore, connection: sqlite3.Connection, call: NewCall, rows: Sequence[NewInput], last: bool
    ) -> Any:
        if refuse[0]:
            raise full()
        return add(self, connection, call, rows, last)

    monkeypatch.setattr(CallStore, "_add", no_room)
    async with rig() as it:
        it.write("program", MODULE)
        it.function("fu-note", "program", "note")
        function = it.call("fu-note")
        for attempt in (function.spawn.aio(1, str(tmp_path / "runs")), function.spawn_map.aio([1] * 600, ["x"] * 600)):
            with pytest.raises(ResourceExhaustedError, match="is full: nothing was changed; free some space"):
                await attempt
        assert it.invocation.spawns.pending("fu-note") == 0
        refuse[0] = False
        assert await function.get.aio(await function.spawn.aio(2, str(tmp_path / "runs"))) == 2


async def test_inputs_that_cannot_be_committed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full only when their transaction ends: they were in it, and are not acknowledged."""
    open_ = Database.open
    monkeypatch.setattr(Database, "open", lambda path, *more, **_prepares: open_(path, *more, prepares=False))
    async with rig() as it:
        it.write("program", MODULE)
        it.function("fu-note", "program", "note")
        function = it.call("fu-note")
        assert await function.get.aio(await function.spawn.aio(1, str(tmp_path / "runs"))) == 1
        await until(lambda: it.invocation.spawns.pending("fu-note") == 0)
        with no_room(it.store.database.path):
            with pytest.raises(InternalFailure, match=r"cannot write .* look at the disk, then try again"):
                await function.spawn.aio(2, str(tmp_path / "runs"))
            with pytest.raises(InternalFailure, match=r"cannot write .* look at the disk, then try again"):
                await function.spawn_map.aio([2], [str(tmp_path / "runs")])
        assert it.invocation.spawns.pending("fu-note") == 0
        assert await function.get.aio(await function.spawn.aio(3, str(tmp_path / "runs"))) == 3
        assert set(runs(tmp_path / "runs")) == {"1", "3"}


async def test_inputs_that_could_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those on disk are read as soon as that is possible, though no container asks for more."""
    monkeypatch.setattr(spawns, "RETRY_SECONDS", 0.05)
    pending, tried = CallStore.pending, []

    async def unreadable(self: CallStore, function_id: str, after_cursor: int = 0, limit: int = 1000) -> Any:
        tried.append(function_id)
        if len(tried) % 3:
            raise Fault(Code.INTERNAL, "the server cannot write (disk I/O error)")
        return await pending(self, function_id, after_cursor, limit)

    monkeypatch.setattr(CallStore, "pending", unreadable)
    path = tmp_path / "runs"
    async with rig() as it:
        it.write("program", MODULE)
        it.function("fu-note", "program", "note")
        function = it.call("fu-note")
        call_id = await function.spawn_map.aio(range(4000), [str(path)] * 4000)
        assert await function.get.aio(call_id, 3999) == 3999
        await until(lambda: it.invocation.spawns.pending("fu-note") == 0)
        await until(lambda: not it.invocation.dispatch.functions["fu-note"].pool.backlog)
    assert set(runs(path).values()) == {1}
    assert len(runs(path)) == 4000
    assert len(tried) >= 3
