"""Workers and containers that were seen: what must be known of them after they (or the server) have ended."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from intermodal.server.store.database import Database

CONTAINERS_KEPT = 7 * 86400.0  # seconds after their start, unless they run


class ContainerRow(NamedTuple):
    container_id: str
    app_id: str
    function_id: str
    worker_id: str
    started_at: float


class FleetStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def worker_seen(self, worker_id: str, info: dict[str, Any]) -> None:
        await self._database.execute(
            "INSERT OR REPLACE INTO workers (worker_id, info, registered_at) VALUES (?, ?, ?)",
            (worker_id, json.dumps(info), time.time()),
        )

    async def workers(self) -> dict[str, dict[str, Any]]:
        """Worker id -> what it said of itself."""
        rows = await self._database.rows("SELECT worker_id, info FROM workers")
        return {worker_id: json.loads(info) for worker_id, info in rows}

    async def drain(self, worker_id: str) -> None:
        """It shall get no containers."""
        await self._database.execute(
            "INSERT OR IGNORE INTO drained_workers (worker_id, drained_at) VALUES (?, ?)", (worker_id, time.time())
        )

    async def undrain(self, worker_id: str) -> None:
        await self._database.execute("DELETE FROM drained_workers WHERE worker_id = ?", (worker_id,))

    async def drained(self) -> set[str]:
        """Ids of the workers that shall get no containers."""
        return {worker_id for (worker_id,) in await self._database.rows("SELECT worker_id FROM drained_workers")}

    def container_started(self, container_id: str, app_id: str, function_id: str, worker_id: str) -> None:
        """Nobody waits for it: a container that the machine's crash erased from here is gone anyway."""
        values = (container_id, app_id, function_id, worker_id, time.time())
        self._database.write_soon(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO containers (container_id, app_id, function_id, worker_id, started_at) "
                "VALUES (?, ?, ?, ?, ?)",
                values,
            )
        )

    async def container(self, container_id: str) -> ContainerRow | None:
        row = await self._database.row(
            "SELECT container_id, app_id, function_id, worker_id, started_at FROM containers WHERE container_id = ?",
            (container_id,),
        )
        return None if row is None else ContainerRow(*row)

    async def forget_containers(self, started_before: float, running: list[str]) -> None:
        await self._database.execute(
            "DELETE FROM containers WHERE started_at < ? AND container_id NOT IN (SELECT value FROM json_each(?))",
            (started_before, json.dumps(running)),
        )
