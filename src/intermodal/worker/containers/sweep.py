"""After a worker was killed: find the containers that still count, and remove what it left half made."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from intermodal.worker.containers.cgroups import CgroupTree
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.processes import kill_below
from intermodal.worker.containers.running import remove_directory
from intermodal.worker.containers.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A container of an earlier worker that can be adopted: it runs, or ended with its exit code recorded."""

    state: State
    places: Places
    pid: int  # 0 when it has ended


def find(directory: Path) -> tuple[list[Found], list[tuple[Places, State | None]]]:
    """Blocking: what can be adopted, and what is to be removed."""
    adoptable: list[Found] = []
    rubbish: list[tuple[Places, State | None]] = []
    try:
        with os.scandir(directory) as found:
            entries = [Path(entry.path) for entry in found if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return [], []
    for entry in entries:
        state = State.read(entry / "state.json")
        places = Places(entry)
        if state is not None:
            if state.disk:
                places = Places(entry, disk=True)
            if state.upper:
                places.upper = Path(state.upper)
            places.work = Path(state.work)
        pid = state.running_pid(places) if state is not None else 0
        if state is not None and state.outlives_worker and _began(state, places):
            adoptable.append(Found(state, places, pid))
        else:
            rubbish.append((places, state))
    return adoptable, rubbish


def _began(state: State, places: Places) -> bool:
    """Whether the container came up, and its end is recorded or will be."""
    return places.pid.exists() and (state.monitor.alive or places.exit.exists())


def remove(rubbish: list[tuple[Places, State | None]], keep: set[str], tree: CgroupTree) -> None:
    """Blocking: kill and remove everything but the control groups named in `keep`."""
    for places, state in rubbish:
        log.info("removing what an earlier worker left of container %s", places.directory.name)
        if state is not None:
            kill_below(state.monitor, and_itself=True)  # whether in a control group or not
        if state is not None and state.slot not in keep:
            tree.find(state.slot).remove()
        remove_directory(places, keep_upper=False)
    for name in tree.names() - keep:
        tree.find(name).remove()
