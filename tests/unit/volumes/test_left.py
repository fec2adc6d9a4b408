"""What ended containers have left of their volumes is committed later, whatever the disk says meanwhile, and once."""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from intermodal.contents import Contents
from intermodal.home import Home
from intermodal.worker.volumes import volumes as module
from intermodal.worker.volumes.mounted import Mounted
from intermodal.worker.volumes.volumes import Volumes
from modal._protocol.messages.volume import Entry


class Left:
    """Commits when the disk lets it."""

    target = "/data"
    container_id = "ta-1"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.committed = asyncio.Event()

    async def commit(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "Input/output error")

    async def close(self) -> None:
        self.committed.set()
        raise OSError(errno.EBUSY, "Device or resource busy")


async def test_a_broken_disk_ends_no_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    volumes = Volumes(Home(tmp_path), lambda: cast("Any", object()))
    broken, other = Left(2), Left(0)
    volumes._left = cast("list[Mounted]", [broken, other])
    keeping = asyncio.create_task(volumes.keep_committed(dict, lambda _id, _text: None))
    for one in (other, broken):
        waiting = asyncio.create_task(one.committed.wait())
        await asyncio.wait([waiting, keeping], return_when=asyncio.FIRST_COMPLETED)
        assert not keeping.done(), keeping.exception()
    assert volumes._left == []
    keeping.cancel()
    volumes._executor.shutdown()


class NoLayers:
    def release(self, layers: list[Path]) -> None:
        assert layers == []


async def test_a_commit_that_waits_for_the_last_one_takes_removed_files_for_no_change(
    tmp_path: Path, objects: Contents
) -> None:
    sent: list[str] = []

    async def send(volume_id: str, container_id: str, changes: list[Entry]) -> None:
        sent.extend(f"{entry.kind} {entry.path}" for entry in changes)

    with ThreadPoolExecutor(2) as executor:
        layers = cast("Any", NoLayers())
        mounted = Mounted(
            tmp_path / "ta-1/0", "ta-1", "vo-1", "/data", False, layers, objects, executor, send, False
        )  # fmt: skip
        mounted.upper.mkdir(parents=True)
        (mounted.upper / "f").write_text("kept")
        await mounted.lock.acquire()  # as the last commit does
        late = asyncio.create_task(mounted.commit())
        await asyncio.sleep(0)
        mounted.lock.release()
        await mounted.close()
        assert not await late
        assert sent == []
        assert not mounted.directory.exists()
