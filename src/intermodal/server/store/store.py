"""The store: everything that survives a restart of the server, by noun."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from intermodal.server.ids import new_id
from intermodal.server.store import dicts, queues, volumes_apart
from intermodal.server.store.apps import AppStore
from intermodal.server.store.calls import CallStore
from intermodal.server.store.database import Database
from intermodal.server.store.dicts import DictStore
from intermodal.server.store.environments import EnvironmentStore
from intermodal.server.store.fleet import FleetStore
from intermodal.server.store.functions import FunctionStore
from intermodal.server.store.images import ImageStore
from intermodal.server.store.migrations import VOLUMES
from intermodal.server.store.objects import ObjectStore
from intermodal.server.store.proxy_tokens import ProxyTokenStore
from intermodal.server.store.queues import QueueStore
from intermodal.server.store.schedules import ScheduleStore
from intermodal.server.store.secrets import SecretStore
from intermodal.server.store.tokens import TokenStore
from intermodal.server.store.tunnels import TunnelStore
from intermodal.server.store.volumes import VolumeStore
from intermodal.server.store.write_behind import WriteBehind

T = TypeVar("T")

VOLUMES_FILE = "volumes.sqlite"


class Store:
    """`await Store.open(path)`; `await store.close()`. Volumes are in a file of their own, beside the other one."""

    def __init__(self, database: Database, volumes: Database) -> None:
        self.database = database
        self._volumes = volumes
        self.environments = EnvironmentStore(database)
        self.apps = AppStore(database)
        self.functions = FunctionStore(database)
        self.images = ImageStore(database)
        self.secrets = SecretStore(database)
        self.tokens = TokenStore(database)
        self.proxy_tokens = ProxyTokenStore(database)
        self.tunnels = TunnelStore(database)
        self.schedules = ScheduleStore(database)
        self.calls = CallStore(database)
        self.fleet = FleetStore(database)
        self.volumes = VolumeStore(volumes)
        self.objects = ObjectStore(database)
        self.dicts = DictStore(database)
        self.queues = QueueStore(database)
        self.server_id = ""
        self.behind: WriteBehind

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Raises migrations.Refused where the file cannot be used."""
        database = await Database.open(path)
        try:
            volumes = await Database.open(path.with_name(VOLUMES_FILE), VOLUMES, prepares=False)
        except BaseException:
            await database.close()
            raise
        store = cls(database, volumes)
        try:
            await volumes_apart.move(database, volumes)
            await store.environments.ensure_default()
            store.server_id = await store.setting("server_id", lambda: new_id("sv"))
            store.behind = await WriteBehind.open(
                store.database, path.parent, store.server_id, {**queues.REDO, **dicts.REDO}
            )
        except BaseException:
            await volumes.close()
            await database.close()
            raise
        return store

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See Database.write."""
        return await self.database.write(work)

    async def setting(self, key: str, default: Callable[[], str]) -> str:
        """A value of the table `meta`; made with `default` the first time."""

        def work(connection: sqlite3.Connection) -> str:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            if row is not None:
                return str(json.loads(row[0]))
            value = default()
            connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (key, json.dumps(value)))
            return value

        return await self.database.write(work)

    async def set_setting(self, key: str, value: str) -> None:
        """Replace a value of the table `meta`."""
        await self.database.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, json.dumps(value)))

    async def close(self) -> None:
        await self._volumes.close()
        await self.behind.close()
        await self.database.close()
