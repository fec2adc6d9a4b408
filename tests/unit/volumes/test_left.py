"""What ended containers have left of their volumes is committed later, whatever the disk says meanwhile, and once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from intermodal.contents import Contents
from intermodal.home import Home
from intermodal.worker.volumes import mounted as mounted_module
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
    def keep(self, layers: list[Path]) -> None:
        assert layers == []

    def release(self, layers: list[Path]) -> None:
        assert layers == []


class Mounts:
    """Makes volumes of one container; `sent` is what they commit."""

    def __init__(self, place: Path, objects: Contents) -> None:
        self.sent: list[str] = []
        self.executor = ThreadPoolExecutor(2)
        self._place = place
        self._objects = objects

    async def send(self, volume_id: str, container_id: str, changes: list[Entry]) -> None:
        self.sent.extend(f"{entry.kind} {entry.path}" for entry in changes)

    def make(self) -> Mounted:
        layers = cast("Any", NoLayers())
        return Mounted(
            self._place, "ta-1", "vo-1", "/data", False, layers, self._objects, self.executor, self.send, False
        )


@pytest.fixture
def mounts(tmp_path: Path, objects: Contents) -> Iterator[Mounts]:
    made = Mounts(tmp_path / "ta-1/0", objects)
    yield made
    made.executor.shutdown()


async def written(mounts: Mounts) -> Mounted:
    """A volume that has one file, which is committed."""
    made = mounts.make()
    made.upper.mkdir(parents=True)
    made._write_note()
    (made.upper / "f").write_text("kept")
    assert await made.commit()
    (made.upper / "g").write_text("kept")  # so that the memo on the disk knows of both
    assert await made.commit()
    assert mounts.sent == ["1 f", "1 g"]
    mounts.sent.clear()
    return made


async def test_a_commit_that_waits_for_the_last_one_takes_removed_files_for_no_change(mounts: Mounts) -> None:
    mounted = await written(mounts)
    await mounted.lock.acquire()  # as the last commit does
    late = asyncio.create_task(mounted.commit())
    await asyncio.sleep(0)
    mounted.lock.release()
    await mounted.close()
    assert not await late
    assert mounts.sent == []
    assert not mounted.directory.exists()


async def test_a_worker_that_is_killed_while_it_removes_files(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = await written(mounts)

    def killed(path: Path) -> None:
        (mounted.upper / "f").unlink()
        raise SystemExit

    monkeypatch.setattr(mounted_module, "remove_tree", killed)
    with pytest.raises(SystemExit):
        mounted._close()
    assert not mounts.make().recall()  # the next worker removes the rest, and commits nothing of it


async def test_a_worker_that_is_killed_in_the_middle_of_a_reload(mounts: Mounts) -> None:
    mounted = await written(mounts)
    mounted.generation += 1  # a reload: it is noted that there is a new upper directory
    mounted.upper.mkdir()
    mounted._write_note()
    adopted = mounts.make()
    assert adopted.recall()
    assert not await adopted.commit()
    assert mounts.sent == []
    (adopted.upper / "new").write_text("new")
    assert await adopted.commit()
    assert mounts.sent == ["1 new"]


async def test_what_an_earlier_worker_has_noted_still_counts(mounts: Mounts) -> None:
    mounted = await written(mounts)
    mounted._memo_path.rename(mounted.directory / "memo.json")
    (mounted.upper / "f").unlink()
    adopted = mounts.make()
    assert adopted.recall()
    assert await adopted.commit()
    assert "0 f" in mounts.sent
