"""What steps work with on one machine: containers for commands, caches outside of layers, local files."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from intermodal.home import Home
from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.commands import Command, ContainerStarter, run
from intermodal.worker.images.host import HostSettings
from intermodal.worker.images.mounts import MountStore

if TYPE_CHECKING:
    from intermodal.worker.images.kinds.kind import Making

TOOLS = "/.intermodal/build"  # what a build step sees of this machine
DEFAULT_SHELL = ["/bin/sh", "-c"]


class Workshop:
    """Shared by all steps of a worker."""

    def __init__(
        self, home: Home, containers: ContainerStarter, mounts: MountStore, host: Callable[[], HostSettings]
    ) -> None:
        self.home = home
        self.mounts = mounts
        self.host = host
        self._containers = containers
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def alone(self, name: str) -> asyncio.Lock:
        """The lock of something that one step at a time may use."""
        return self._locks[name]

    async def run(self, making: Making, argv: list[str], binds: list[Bind], env: dict[str, str] | None = None) -> None:
        """Run a command on the layers below; what it changes is the new layer. Raises StepError.

        `env` goes before this machine's settings ("" takes one away); the image's variables and the
        secrets go before `env`.
        """
        host = self.host()
        given = {**self._environment(host), **(env or {})}
        command = Command(
            argv=argv,
            env={**{name: value for name, value in given.items() if value}, **making.config.env, **making.secrets},
            cwd=making.config.workdir or "/",
            layers=making.layers,
            upper=making.upper,
            binds=[*host.binds(), *binds],
            hide=list(making.secrets.values()),
        )
        await run(self._containers, self.home, command, lambda text: making.log("output", text))

    def caches(self) -> list[Bind]:
        """What pip and uv have downloaded before."""
        return [self.cache(name) for name in ("uv-cache", "pip-cache")]

    def cache(self, name: str, inside: str = "") -> Bind:
        """A directory that outlives the step, at `TOOLS/inside`."""
        path = self.home.cache / name
        path.mkdir(parents=True, exist_ok=True)
        return Bind(path, f"{TOOLS}/{inside or name}", read_only=False)

    def _environment(self, host: HostSettings) -> dict[str, str]:
        return {
            **host.environment(),
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_CACHE_DIR": f"{TOOLS}/pip-cache",
            "UV_CACHE_DIR": f"{TOOLS}/uv-cache",
            "UV_LINK_MODE": "copy",  # a hard link cannot leave the cache's mount
        }
