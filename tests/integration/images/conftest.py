"""A builder on a fresh state directory that borrows its Debian base."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from intermodal.home import Home
from intermodal.worker.containers import enter_private_mounts
from intermodal.worker.containers.containers import Containers
from intermodal.worker.containers.launch import Bind
from intermodal.worker.devices.edits import Edits
from intermodal.worker.images import Images
from modal._protocol.messages.function import VolumeMount
from modal._protocol.messages.image import BuildLog, ImageConfig
from tests.images_cache import lend_base

BASE = {"kind": "debian_slim", "python_version": "3.11"}


class Lends:
    """What a worker lends to steps, as the tests set it."""

    def __init__(self) -> None:
        self.edits = Edits()
        self.asked: list[list[str]] = []
        self.out = 0  # GPUs that are lent now
        self.directory = Path()  # what every volume shows
        self.mounts: list[VolumeMount] = []
        self.credentials: dict[str, Any] = {}
        self.environment = ""
        self.pids: list[int] = []
        self.at_end: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def devices(self, _container_id: str, gpu: list[str], _log: Any) -> AsyncIterator[Edits]:
        self.asked.append(gpu)
        self.out += 1
        yield self.edits
        self.out -= 1

    @asynccontextmanager
    async def volumes(self, _id: str, mounts: list[VolumeMount], credentials: Any) -> AsyncIterator[list[Bind]]:
        self.mounts, self.credentials = mounts, credentials
        yield [Bind(self.directory, mount.path, read_only=False) for mount in mounts]
        self.at_end()

    @asynccontextmanager
    async def api(self, _id: str, environment: str) -> AsyncIterator[Bind]:
        self.environment = environment
        yield Bind(self.directory, "/.intermodal/run", read_only=False)

    def started(self, _container_id: str, pid: int) -> None:
        self.pids.append(pid)


class Builder:
    """Builds recipes on top of the base, and remembers what was logged."""

    def __init__(self, home: Home, containers: Containers, images: Images) -> None:
        self.home = home
        self.containers = containers
        self.images = images
        self.entries: list[BuildLog] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.lends = Lends()
        self._count = 0

    async def build(self, *steps: dict[str, Any], ignore_cache: bool = False, base: Any = BASE) -> ImageConfig:
        self._count += 1
        recipe = [base, *steps]
        return await self.images.build(f"im-{self._count}", recipe, self.secrets, self.entries.append, ignore_cache)

    async def output(self, *steps: dict[str, Any]) -> str:
        """What the steps print."""
        self.entries.clear()
        await self.build(*steps)
        return self.printed

    @property
    def printed(self) -> str:
        return "".join(entry.text for entry in self.entries if entry.kind == "output")

    @property
    def started(self) -> list[str]:
        return [entry.text for entry in self.entries if entry.kind == "start"]

    def names(self, directory: str) -> list[str]:
        """What lies in a directory of the home, locks and borrowed things aside."""
        path = self.home.path / directory
        return sorted(one.name for one in path.iterdir() if not one.is_symlink()) if path.is_dir() else []


def run(*commands: str, **extra: Any) -> dict[str, Any]:
    return {"kind": "run", "commands": list(commands), **extra}


@pytest.fixture
async def builder(intermodal_home: Path) -> AsyncIterator[Builder]:
    home = Home(intermodal_home)
    await lend_base(home)
    containers = Containers(home)
    await containers.open()
    images = Images(home, containers)
    try:
        await images.open()
        yield Builder(home, containers, images)
    finally:
        await images.close()
        await containers.close()


@pytest.fixture(autouse=True, scope="session")
def own_mounts() -> None:
    """As in a worker, before there are threads: these would stay in the machine's mount namespace."""
    enter_private_mounts()


@pytest.fixture(scope="session", autouse=True)
def warm_base(own_mounts: None) -> None:
    """Build the base outside of any test's time limit."""
    import os

    from tests.images_cache import base_config

    if os.geteuid() == 0:
        asyncio.run(base_config())


# Fixtures for tests with images of registries.
from .registries import debian, lent, private, registry  # noqa: E402, F401
