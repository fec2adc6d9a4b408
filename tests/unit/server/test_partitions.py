"""Which partitions of queues are in memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from intermodal.server.queues import partitions as partitions_module
from intermodal.server.queues.changes import Changes
from intermodal.server.queues.partition import Partition
from intermodal.server.queues.partitions import Partitions
from intermodal.server.store.queues import PartitionRow
from intermodal.server.store.store import Store


async def test_a_queue_is_not_forgotten_while_a_partition_of_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions_module, "MAX_QUEUES", 1)
    store = await Store.open(tmp_path / "store.sqlite")
    try:
        partitions = await Partitions.open(store.queues, Changes(store.queues, store.behind), _number, _adopt)
        names = [f"qu-{number}" for number in range(1, 9)]
        loaded = await asyncio.gather(*(partitions.load(name, b"key") for name in names))
        assert [partition.queue.object_id for partition in loaded] == names
        assert [partitions.get(name, b"key") for name in names] == loaded
    finally:
        await store.close()


async def _number(object_id: str) -> int:
    return int(object_id[3:])


def _adopt(_partition: Partition, _row: PartitionRow) -> None:
    raise AssertionError("nothing was lent")
