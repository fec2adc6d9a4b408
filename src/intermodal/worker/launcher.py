"""From what the server asks for to what a container is started with: its variables, mounts, devices and limits."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.worker import entrypoint
from intermodal.worker.containers.disks import DEFAULT_SIZE
from intermodal.worker.containers.launch import Bind, ContainersError, Device, Launch, Limits
from intermodal.worker.images.host import host_environment
from modal._protocol.messages.function import Resources

if TYPE_CHECKING:
    from intermodal.worker.buckets import Buckets
    from intermodal.worker.cell import Cell
    from intermodal.worker.containers.containers import Containers
    from intermodal.worker.devices.edits import Edits
    from intermodal.worker.devices.inventory import Inventory
    from intermodal.worker.images.images import Images
    from intermodal.worker.volumes import Volumes
    from modal._protocol.messages.worker import ContainerSpec

CPU_ABOVE_REQUEST = 16.0  # cores
START = "/.intermodal/lib/intermodal/runner/start.py"


class Launcher:
    """Knows the parts of the worker that a container has something of."""

    def __init__(
        self, containers: Containers, images: Images, devices: Inventory, volumes: Volumes, buckets: Buckets
    ) -> None:
        self._containers = containers
        self._images = images
        self._devices = devices
        self._volumes = volumes
        self._buckets = buckets

    async def launch(self, cell: Cell, spec: ContainerSpec, layers: list[Path]) -> Launch:
        """All that the container is started with; attaches its volumes and buckets. Raises ContainersError, Fault."""
        host_env, host_binds = host_environment()
        edits = self._device_edits(spec)
        env = {**host_env, **spec.image.env, **edits.env, **spec.env}
        if "LD_LIBRARY_PATH" in edits.env and spec.image.env.get("LD_LIBRARY_PATH"):
            env["LD_LIBRARY_PATH"] = f"{spec.image.env['LD_LIBRARY_PATH']}:{edits.env['LD_LIBRARY_PATH']}"
        binds = [
            *host_binds,
            *self._images.platform(),
            Bind(cell.run_dir, "/.intermodal/run", read_only=False),
            *(Bind(Path(mount.source), mount.target) for mount in edits.mounts),
            *await self._volumes.attach(spec.container_id, spec.volumes),
            *await self._buckets.attach(spec.container_id, spec.volumes, spec.credentials),
        ]
        cell.marks["layers ready"] = time.time()
        return Launch(
            container_id=spec.container_id,
            layers=layers,
            argv=entrypoint.command(spec.image, START),
            env=env,
            directory=cell.directory,
            cwd=spec.image.workdir or "/root",
            binds=binds,
            limits=limits_of(spec.resources),
            devices=[Device(Path(node.source), node.target) for node in edits.nodes],
            hooks=edits.hooks,
            network="none" if spec.block_network else "bridge",
            runtime=spec.runtime,
        )

    def _device_edits(self, spec: ContainerSpec) -> Edits:
        """Raises ContainersError for a device that is not here any more."""
        try:
            return self._devices.edits(list(spec.devices))
        except (KeyError, FileNotFoundError) as error:
            raise ContainersError(f"a GPU of this machine cannot be used: {error}") from None


def limits_of(resources: Resources) -> Limits:
    """What a container may use: where its function sets no limit, the documented ones."""
    cpu = resources.cpu_limit or resources.cpu_request + CPU_ABOVE_REQUEST
    return Limits(
        0.0 if cpu >= (os.cpu_count() or 1) else cpu,  # what cannot be passed need not be watched
        resources.cpu_request,
        resources.memory_limit,
        disk=resources.ephemeral_disk or DEFAULT_SIZE,
    )
