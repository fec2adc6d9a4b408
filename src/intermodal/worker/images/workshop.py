"""What steps work with on one machine: containers for commands, caches outside of layers, local files."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from intermodal.home import Home
from intermodal.worker.containers.launch import ROOT, Bind, Device, Limits, User
from intermodal.worker.devices.edits import Edits
from intermodal.worker.images.commands import Command, ContainerStarter, run
from intermodal.worker.images.host import HostSettings
from intermodal.worker.images.mounts import MountStore
from modal._protocol.messages.function import VolumeMount

if TYPE_CHECKING:
    from intermodal.worker.images.kinds.kind import Making

TOOLS = "/.intermodal/build"  # what a build step sees of this machine
DEFAULT_SHELL = ["/bin/sh", "-c"]


class StepPlatform(Protocol):
    """What a worker lends to the container of a step, each for a block."""

    def api(self, container_id: str, environment: str) -> AbstractAsyncContextManager[Bind]:
        """The way to the server, where names resolve in `environment`."""

    def volumes(
        self, container_id: str, mounts: list[VolumeMount], credentials: Mapping[str, Mapping[str, str]]
    ) -> AbstractAsyncContextManager[list[Bind]]:
        """Volumes, and buckets with the credentials for their paths; what was written is kept. Raises StepError."""

    def devices(
        self, container_id: str, gpu: list[str], log: Callable[[str, str], None]
    ) -> AbstractAsyncContextManager[Edits]:
        """GPUs that nothing else has meanwhile. Raises StepError."""

    def started(self, container_id: str, pid: int) -> None:
        """The container runs as this process; 0: it has ended."""


def new_container_id() -> str:
    return f"ib-{secrets.token_hex(11)}"


class Workshop:
    """Shared by all steps of a worker."""

    def __init__(
        self,
        home: Home,
        containers: ContainerStarter,
        mounts: MountStore,
        host: Callable[[], HostSettings],
        platform: Callable[[], list[Bind]],
    ) -> None:
        self.home = home
        self.mounts = mounts
        self.host = host
        self.platform = platform  # what every function's container sees of us
        self.lends: StepPlatform | None = None  # set by a worker; without, steps have neither volumes, GPUs nor the API
        self._containers = containers
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def alone(self, name: str) -> asyncio.Lock:
        """The lock of something that one step at a time may use."""
        return self._locks[name]

    async def run(
        self,
        making: Making,
        argv: list[str],
        binds: list[Bind],
        env: dict[str, str] | None = None,
        *,
        upper: Path | None = None,
        layers: list[Path] | None = None,
        cwd: str = "",
        limits: Limits | None = None,
        timeout: float = 0.0,
        user: User = ROOT,
        network: str = "bridge",
        container_id: str = "",
    ) -> None:
        """Run a command on the layers below; what it changes is the new layer. Raises StepError.

        `env` goes before this machine's settings ("" takes one away); the image's variables and the
        secrets go before `env`. With an `upper` of its own, what it changes is no part of the layer.
        `layers` are further ones, which it sees and the image does not get. `timeout` is in seconds.
        The GPUs that the step has are the command's.
        """
        host, edits = self.host(), making.edits
        given = {**self._environment(host), **edits.env, **(env or {})}
        container_id = container_id or new_container_id()
        lends = self.lends
        command = Command(
            argv=argv,
            env={**{name: value for name, value in given.items() if value}, **making.config.env, **making.secrets},
            cwd=cwd or making.config.workdir or "/",
            layers=[*making.layers, *(layers or [])],
            upper=upper or making.upper,
            binds=[
                *host.binds(),
                *binds,
                *(Bind(Path(mount.source), mount.target) for mount in edits.mounts),
            ],
            hide=list(making.secrets.values()),
            limits=limits or Limits(pids=0),
            timeout=timeout,
            user=user,
            network=network,
            container_id=container_id,
            devices=[Device(Path(node.source), node.target) for node in edits.nodes],
            hooks=edits.hooks,
            started=None if lends is None else lambda pid: lends.started(container_id, pid),
        )
        await run(self._containers, self.home, command, lambda text: making.log("output", text))

    def caches(self) -> list[Bind]:
        """What pip and uv have downloaded before."""
        return [self.cache(name) for name in ("uv-cache", "pip-cache")]

    def cache(self, name: str, inside: str = "") -> Bind:
        """A directory that outlives the step, at `TOOLS/inside`."""
        path = self.home.cache / name
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)  # when it was last used, for whoever prunes
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
