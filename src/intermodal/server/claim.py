"""Takes the state directory and starts the worker's process, before anything that takes long to import is."""

from __future__ import annotations

from dataclasses import dataclass

from intermodal.home import Home
from intermodal.server.services.local_worker import LocalWorker
from intermodal.server.state import lock, prepare


@dataclass
class Claim:
    """A state directory that is this process's."""

    lock: int  # descriptor
    local_worker: LocalWorker | None
    worker_lives: bool  # one from before, which may have containers


def claim_home(home: Home, worker: bool) -> Claim:
    """Raises migrations.Refused where the directory cannot be used, state.Busy where another server uses it."""
    prepare(home)
    descriptor = lock(home)
    local_worker = LocalWorker(home) if worker else None
    lives = local_worker is not None and local_worker.there()
    if local_worker is not None and not lives:
        local_worker.begin()
    return Claim(descriptor, local_worker, lives)
