"""What `intermodal status` shows."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intermodal import processes
from intermodal.home import Home
from intermodal.server.ports import WorkersPort
from intermodal.server.services.apps import Apps
from intermodal.server.services.environments import Environments
from intermodal.server.services.local_worker import LocalWorker


def software() -> str:
    """The distribution's version, as its SDK knows it (the metadata of the installation costs 16 ms to read)."""
    return str(vars(sys.modules["modal"]).get("__version__", ""))


class Status:
    def __init__(
        self,
        home: Home,
        server_id: str,
        apps: Apps,
        environments: Environments,
        workers: WorkersPort,
        local_worker: LocalWorker | None,
        certificates: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self.addresses: list[str] = []
        self._started = time.time()
        self._home = home
        self._server_id = server_id
        self._apps = apps
        self._environments = environments
        self._workers = workers
        self._local_worker = local_worker
        self._certificates = certificates

    async def get(self, disk: bool = True) -> dict[str, Any]:
        """One JSON object."""
        workers = self._workers.describe()
        containers = self._workers.containers()
        worker_pids = {worker.get("pid", 0) for worker in workers}
        names = {app.app_id: app.name or app.description for app in self._apps.live.values()}
        return {
            "server_id": self._server_id,
            "pid": os.getpid(),
            "home": str(self._home.path),
            "addresses": self.addresses,
            "started_at": self._started,
            "software": software(),
            "python": platform.python_version(),
            "memory": processes.memory(os.getpid()),
            "worker_memory": sum(processes.memory(pid) for pid in worker_pids if pid),
            "disk": await asyncio.to_thread(disk_of, self._home) if disk else {},
            "local_worker": self._local_worker.describe() if self._local_worker is not None else None,
            "workers": workers,
            "certificates": self._certificates(),
            "apps": [
                {
                    "app_id": app.app_id,
                    "name": app.name or app.description,
                    "state": app.state,
                    "environment": self._environments.name_of(app.environment_id),
                    "containers": sum(container.app_id == app.app_id for container in containers),
                }
                for app in self._apps.live.values()
            ],
            "containers": [
                {
                    "container_id": container.container_id,
                    "app_id": container.app_id,
                    "app_name": names.get(container.app_id, ""),
                    "function_name": container.function_name,
                    "state": container.state,
                    "started_at": container.started_at,
                    "worker_id": container.worker_id,
                }
                for container in containers
            ],
        }


def disk_of(home: Home) -> dict[str, int]:
    """Bytes in each part of the state directory, and what the disk has left."""
    parts = {
        "layers": home.layers, "files": home.files, "values": home.values, "logs": home.logs, "cache": home.cache,
        "mounts": home.mounts, "containers": home.containers,
    }  # fmt: skip
    used = {name: directory_size(path) for name, path in parts.items()}
    used["store"] = sum(path.stat().st_size for path in home.path.glob(f"{home.store.name}*") if path.is_file())
    free = os.statvfs(home.path)
    return {**used, "total": sum(used.values()), "free": free.f_bavail * free.f_frsize}


def directory_size(path: Path) -> int:
    """Bytes on disk below a directory, each file once."""
    total, seen = 0, set()
    for folder, _folders, names in os.walk(path):
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if found.st_nlink > 1:
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total
