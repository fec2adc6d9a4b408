"""Names of volumes and network file systems: made when they are missing, listed, renamed, deleted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable

from intermodal.server.ids import looks_like, new_id
from intermodal.server.services.names import check_name
from intermodal.server.store.environments import Environment
from intermodal.server.store.volumes import VolumeRow, VolumeStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import NETWORK_FILE_SYSTEM, VOLUME

WORDS = {VOLUME: "Volume", NETWORK_FILE_SYSTEM: "NetworkFileSystem"}
COMMANDS = {VOLUME: "volume", NETWORK_FILE_SYSTEM: "nfs"}
PREFIXES = {VOLUME: "vo", NETWORK_FILE_SYSTEM: "nf"}


class VolumeNames:
    def __init__(self, store: VolumeStore, remove_files: Callable[[str], Awaitable[None]]) -> None:
        """`remove_files(id)` deletes the directory of a network file system."""
        self._store = store
        self._remove_files = remove_files

    async def get(self, volume_id: str) -> VolumeRow:
        """Fault: not-found."""
        row = await self._store.get(volume_id)
        if row is None:
            raise Fault(Code.NOT_FOUND, f"the volume {volume_id} does not exist: it was deleted")
        return row

    async def find(
        self, environment: Environment, kind: str, name: str, create: bool, format: int = 0
    ) -> tuple[VolumeRow, bool]:
        """The named one, and whether it was made for this. Faults: not-found, invalid."""
        word = self._word(kind)
        check_name(word, name)
        if looks_like(PREFIXES[kind], name):
            raise Fault(Code.INVALID, f"Invalid {word} name: {name!r}. It must not look like an id.")
        row = await self._store.by_name(environment.environment_id, kind, name)
        if row is not None:
            return row, False
        if not create:
            raise Fault(
                Code.NOT_FOUND,
                f"{word} {name!r} not found in environment {environment.name!r}: create it with "
                f"`modal {COMMANDS[kind]} create {name}`, or use create_if_missing=True",
            )
        try:
            return await self._create(environment, kind, name, format), True
        except sqlite3.IntegrityError:  # somebody else was quicker
            return await self.find(environment, kind, name, False)

    async def ephemeral(self, environment: Environment, kind: str, format: int = 0) -> VolumeRow:
        """A new one without a name; it needs a heartbeat (`keep`)."""
        self._word(kind)
        return await self._create(environment, kind, "", format)

    async def _create(self, environment: Environment, kind: str, name: str, format: int) -> VolumeRow:
        now = time.time()
        volume_id = new_id(PREFIXES[kind])
        row = VolumeRow(volume_id, environment.environment_id, kind, name, format, 0, 0, 0, now, now)
        await self._store.create(row)
        return row

    async def keep(self, volume_id: str) -> VolumeRow:
        """An ephemeral one's heartbeat. Fault: not-found."""
        row = await self.get(volume_id)
        await self._store.used(volume_id)
        return row

    async def named(self, environment: Environment, kind: str) -> list[VolumeRow]:
        """Newest first."""
        self._word(kind)
        return await self._store.named(environment.environment_id, kind)

    async def rename(self, environment: Environment, kind: str, old: str, new: str) -> None:
        """Faults: not-found, conflict, invalid."""
        row, _made = await self.find(environment, kind, old, False)
        check_name(self._word(kind), new)
        try:
            await self._store.rename(row.volume_id, new)
        except sqlite3.IntegrityError:
            raise Fault(
                Code.CONFLICT,
                f"there is a {self._word(kind)} {new!r} in the environment {environment.name!r} already",
            ) from None

    async def delete(self, row: VolumeRow) -> None:
        """With all that is in it."""
        await self._store.delete([row.volume_id])
        if row.kind == NETWORK_FILE_SYSTEM:
            await self._remove_files(row.volume_id)

    async def sweep(self, environments: list[str]) -> int:
        """Delete ephemeral ones that nobody keeps, and what was in environments that are gone; how many."""
        doomed = await self._store.abandoned(environments)
        for row in doomed:
            await self.delete(row)
        return len(doomed)

    @staticmethod
    def _word(kind: str) -> str:
        if kind not in WORDS:
            raise Fault(Code.INVALID, f"there is no kind of volume {kind[:40]!r}")
        return WORDS[kind]
