"""What ended containers have left of their volumes is committed later, whatever the disk says meanwhile."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any, cast

import pytest

from intermodal.home import Home
from intermodal.worker.volumes import volumes as module
from intermodal.worker.volumes.mounted import Mounted
from intermodal.worker.volumes.volumes import Volumes


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
