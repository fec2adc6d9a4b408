"""A store with one volume."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from intermodal.contents import Contents
from intermodal.server.services.network_files import NetworkFiles
from intermodal.server.services.volume_names import VolumeNames
from intermodal.server.services.volumes import Volumes
from intermodal.server.store.store import Store
from intermodal.server.store.volumes import VolumeRow

VOLUME_ID = "vo-test"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "store.sqlite")
    environment = (await made.environments.all())[0].environment_id
    now = time.time()
    await made.volumes.create(VolumeRow(VOLUME_ID, environment, "volume", "test", 0, 0, 0, 0, now, now))
    yield made
    await made.close()


@pytest.fixture
def objects(tmp_path: Path) -> Contents:
    made = Contents(tmp_path / "objects")
    made.prepare()
    return made


@pytest.fixture
def network_files(tmp_path: Path) -> NetworkFiles:
    return NetworkFiles(tmp_path / "network-files")


@pytest.fixture
def volumes(store: Store, objects: Contents, network_files: NetworkFiles) -> Volumes:
    return Volumes(store.volumes, VolumeNames(store.volumes, network_files.remove_all), objects)
