"""`python -m intermodal.worker.containers.trial DIRECTORY`: try what this machine can do, in a process of its own.

It prints one JSON object. The trial uses a state directory of its own below DIRECTORY, so a worker that runs is not
disturbed: bridge, table and control groups have other names, and all of it is removed again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from intermodal.home import Home
from intermodal.worker.containers import probe
from intermodal.worker.containers.cgroups import Mounts
from intermodal.worker.containers.containers import Containers
from intermodal.worker.containers.disks import Disks
from intermodal.worker.containers.launch import Bind, ContainersError, Launch, StartFailed
from intermodal.worker.containers.overlay import remove_tree
from intermodal.worker.containers.private_mounts import delegated, enter_private_mounts, in_user_namespace
from intermodal.worker.devices.inventory import Inventory
from intermodal.worker.images import layer_mounts
from intermodal.worker.network.resolver import read_resolver

# In its own process namespace, with a system call filter, and without the rights of the machine's root.
COMMAND = "test $$ = 1 && grep -q '^Seccomp:.*2' /proc/self/status && ! chown 0 /proc/sys 2>/dev/null && exit 7"
EXPECTED = 7


def _machine_as_image(layer: Path) -> tuple[Path, list[Bind]]:
    """A layer with nothing in it, and binds of this machine's programs. (Its root itself is not to be mounted
    without root.)"""
    for name in ("dev", "etc", "proc", "root", "sys", "tmp"):
        (layer / name).mkdir(parents=True)
    binds = []
    for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "nix", "gnu"):
        source = Path("/") / name
        if source.is_symlink():
            (layer / name).symlink_to(source.readlink())
        elif source.is_dir():
            binds.append(Bind(source, f"/{name}"))
    return layer, binds


async def _start_one(directory: Path, limits: list[str]) -> tuple[str, float]:
    """What prevents a container, or "" and the milliseconds that its start took. `limits` gets those that hold."""
    containers = Containers(Home(directory))
    try:
        await containers.open()
        limits += containers.limits
        if containers.runtime == "host":
            return "no runtime works here", 0.0
        directory = containers.home.containers / "ta-trial"
        layer, binds = _machine_as_image(directory.parent.parent / "layer")
        launch = Launch("ta-trial", [layer], ["/bin/sh", "-c", COMMAND], {}, directory, binds=binds)
        began = time.perf_counter()
        running = await containers.start(launch)
        took = (time.perf_counter() - began) * 1000
        ended = await running.wait()
        if ended.code != EXPECTED:
            return f"it ended with {ended.code}, so it is not confined as it should be. {ended.detail}", took
        return "; ".join(containers.problems), took
    except StartFailed as error:
        return str(error), 0.0
    finally:
        await containers.close()


def _disks(place: Path) -> str:
    """Why containers' disks have no limit here; "" where they have."""
    disks = Disks(place / "disks")
    disks.open()
    return disks.problem


def _gpus() -> dict[str, Any]:
    inventory = Inventory()
    inventory.open()
    kinds = [gpu.kind for gpu in inventory.gpus]
    return {"gpus": kinds, "gpu_problem": inventory.problem, "gpu_source": inventory.source}


def run(directory: Path) -> dict[str, Any]:
    """Everything that can only be learned by trying."""
    mode = Mounts.read().mode  # before the private mounts hide a part of it
    mounts_problem = enter_private_mounts()
    directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".trial-", dir=directory))
    try:
        runtimes = probe.runtimes(place, mounts_problem)
        limits: list[str] = []
        try:
            problem, took = asyncio.run(_start_one(place, limits))
        except (ContainersError, OSError) as error:
            problem, took = str(error), 0.0
        resolver = read_resolver()
        return {
            "servers": resolver.servers,
            "loopback": resolver.loopback,
            "cgroups": mode,
            "limits": limits,
            "limits_problem": delegated().problem,
            "limits_remedy": delegated().remedy,
            "user_namespace": in_user_namespace(),
            "mounts": mounts_problem,
            "overlay": mounts_problem or probe.overlay_problem(place),
            "runtimes": runtimes,
            "start": problem,
            "disks": _disks(place),
            "unpacks": layer_mounts.problem(place),
            **_gpus(),
            "milliseconds": took,
        }
    finally:
        remove_tree(place)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    answer = run(Path(sys.argv[1]))
    sys.stdout.write(json.dumps(answer) + "\n")
