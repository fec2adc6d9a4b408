"""The blocking part of a start: everything on disk, the mount, the names and the limits."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from intermodal.worker import site
from intermodal.worker.containers.disks import DEFAULT_SIZE, Disks, move, unmount
from intermodal.worker.containers.launch import Launch
from intermodal.worker.containers.overlay import Overlay
from intermodal.worker.containers.pid_files import PidFiles
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.running import remove_directory
from intermodal.worker.containers.runtimes import Runtime
from intermodal.worker.containers.slots import Slot, discard_disk, discard_slot
from intermodal.worker.containers.state import State
from intermodal.worker.network.bridge import Bridge
from intermodal.worker.network.resolver import HOST_RESOLV_CONF, hosts_text


@dataclass(frozen=True)
class Prepared:
    """What a start needs next."""

    state: State
    places: Places
    overlay: Overlay | None
    watch: int  # on the directory, for the pid file


def prepare(
    launch: Launch,
    runtime: Runtime,
    slot: Slot,
    bridge: Bridge | None,
    pid_files: PidFiles,
    user_namespace: bool,
    disks: Disks,
    mark: Callable[[str], None],
) -> Prepared:
    """Blocking. Raises StartFailed or OSError; call `undo` then."""
    launch.directory.mkdir(parents=True, exist_ok=True)
    size = launch.limits.disk if launch.upper is None and not disks.problem else 0
    places = Places(launch.directory, launch.upper, disk=size > 0)
    state = State(
        launch.container_id,
        slot.name,
        slot.address,
        slot.monitor,
        runtime.name,
        launch.outlives_worker,
        upper=str(launch.upper or ""),
        work=str(places.work),
        disk=size,
    )
    state.write(places.state)
    for old in (places.pid, places.exit, places.log):
        old.unlink(missing_ok=True)
    places.run.mkdir(exist_ok=True)
    for fifo in (places.stdout, places.stderr):
        _make_fifo(fifo)
    slot.cgroup.limit(launch.limits)
    slot.cgroup.allow_devices(device.source for device in launch.devices)
    _write_names(launch, places, slot.address, bridge)
    if size:
        places.disk.mkdir(exist_ok=True)
        if slot.disk is not None and size == DEFAULT_SIZE:
            move(slot.disk, places.disk)
            slot.disk = None
        else:
            disks.mount(size, places.disk)
        mark("disk")
    discard_disk(slot)
    overlay = Overlay(launch.layers, places.upper, places.work, places.root)
    overlay.mount(userxattr=user_namespace)
    mark("overlay")
    try:
        runtime.write(launch, places, slot.cgroup)
        watch = pid_files.watch(places.directory)
    except BaseException:
        overlay.unmount()
        raise
    mark("config")
    return Prepared(state, places, overlay, watch)


def undo(launch: Launch, slot: Slot, bridge: Bridge | None) -> None:
    """Blocking: after a preparation that failed."""
    discard_slot(slot, bridge)
    unmount(Places(launch.directory).disk)
    remove_directory(Places(launch.directory, launch.upper), keep_upper=launch.upper is not None)


def _write_names(launch: Launch, places: Places, address: str, bridge: Bridge | None) -> None:
    places.files.mkdir(exist_ok=True)
    gateway = str(bridge.gateway) if bridge is not None and address else ""
    if launch.network == "none":
        resolv = ""
    elif gateway and bridge is not None:
        resolv = bridge.resolver.text(gateway)
    else:
        resolv = _read_or_empty(HOST_RESOLV_CONF)
    (places.files / "resolv.conf").write_text(resolv)
    (places.files / "hosts").write_text(
        hosts_text(launch.hostname, address, gateway) + site.hosts_lines(site.own_hosts(), gateway)
    )
    (places.files / "hostname").write_text(f"{launch.hostname}\n")


def _make_fifo(path: Path) -> None:
    """Writable for whomever the program in the container becomes: who gets here is decided by the directory above."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o622)


def _read_or_empty(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
