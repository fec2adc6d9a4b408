"""What a later worker must know of a container: `state.json`, written before anything of it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from intermodal.boots import boot_id
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.processes import Process, parent_of

VERSION = 1


@dataclass(frozen=True)
class State:
    """One started container."""

    container_id: str
    slot: str  # also the name of its control groups
    address: str
    monitor: Process
    runtime: str
    outlives_worker: bool
    upper: str  # the caller's own upper directory, or ""
    work: str
    hostname: str = ""
    disk: int = 0  # MiB of the disk of its own, 0 for none

    def write(self, path: Path) -> None:
        """Whole or not at all. The disk is not awaited: after a crash of the machine the state is void anyway."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps({**asdict(self), "version": VERSION, "boot": boot_id()}))
        temporary.rename(path)

    @classmethod
    def read(cls, path: Path) -> State | None:
        """None for what is missing, foreign, or of an earlier boot."""
        try:
            fields = json.loads(path.read_text())
            if fields.pop("version") != VERSION or fields.pop("boot") != boot_id():
                return None
            monitor = fields.pop("monitor")
            return cls(monitor=Process(monitor["pid"], monitor["started"]), **fields)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def running_pid(self, places: Places) -> int:
        """The container's first process, as long as the monitor waits for it; else 0."""
        if not self.monitor.alive:
            return 0
        try:
            pid = int(places.pid.read_text())
        except (OSError, ValueError):
            return 0
        # monitor → runtime → container: a number that was given to another process has other ancestors.
        parent = parent_of(pid)
        if self.monitor.pid not in (parent, parent_of(parent) if parent else 0):
            return 0
        return pid
