"""Dicts and queues as objects: found by name, made, kept alive by their holders, deleted with what is in them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from intermodal.server.principal import Principal
from intermodal.server.services.names import check_name
from intermodal.server.store.environments import Environment
from intermodal.server.store.objects import PREFIXES, ObjectRow, ObjectStore
from modal._protocol.errors import Code, Fault

HEARD_WITHIN = 900.0  # seconds: an ephemeral object that nobody has said a word of for so long is deleted
TITLES = {"dict": "Dict", "queue": "Queue"}
_log = logging.getLogger(__name__)

Dropped = Callable[[str, int], Awaitable[None]]  # object id, number


class Objects:
    """`on_dropped[kind]` is called when an object was deleted."""

    def __init__(self, store: ObjectStore, now: Callable[[], float] = time.time) -> None:
        self.on_dropped: dict[str, Dropped] = {}
        self._store = store
        self._now = now

    async def open(
        self, kind: str, environment: Environment, name: str, create: bool, principal: Principal
    ) -> ObjectRow:
        """The named one, or a new ephemeral one. Faults: not-found, invalid."""
        title = _title(kind)
        if not name:
            expires_at = self._now() + HEARD_WITHIN
            return await self._store.ephemeral(kind, environment.environment_id, principal.app_id, expires_at)
        check_name(title, name)
        found = await self._store.by_name(kind, environment.environment_id, name)
        if found is None and create:
            found = await self._store.open(kind, environment.environment_id, name)
        if found is None:
            raise _not_there(kind, environment, name)
        return found

    async def number(self, kind: str, object_id: str) -> int:
        """Of the object with this id. Fault: not-found."""
        return (await self.get(kind, object_id)).number

    async def get(self, kind: str, object_id: str) -> ObjectRow:
        """Fault: not-found."""
        found = await self._store.get(object_id)
        if found is None or found.kind != kind:
            raise Fault(Code.NOT_FOUND, f"{_title(kind)} {object_id[:80]!r} does not exist (any more)")
        return found

    async def all(self, kind: str, environment: Environment) -> list[ObjectRow]:
        """The named ones."""
        _title(kind)
        return await self._store.named(kind, environment.environment_id)

    async def keep(self, object_id: str) -> None:
        """An ephemeral one is still used. Fault: not-found."""
        if not await self._store.keep(object_id, self._now() + HEARD_WITHIN):
            raise Fault(Code.NOT_FOUND, f"the ephemeral object {object_id[:80]!r} does not exist any more")

    async def delete(self, kind: str, object_id: str) -> None:
        """Fault: not-found."""
        await self._delete(await self.get(kind, object_id))

    async def delete_named(self, kind: str, environment: Environment, name: str) -> None:
        """Fault: not-found."""
        found = await self._store.by_name(kind, environment.environment_id, name)
        if found is None:
            _title(kind)
            raise _not_there(kind, environment, name)
        await self._delete(found)

    async def delete_environment(self, environment: Environment) -> None:
        """All that is in it."""
        for row in await self._store.of_environment(environment.environment_id):
            await self._delete(row)

    async def sweep(self, live_apps: Callable[[str], bool]) -> int:
        """Delete ephemeral objects that nobody holds, and those of apps that have ended; how many."""
        now = self._now()
        doomed = [
            row
            for row in await self._store.ephemeral_ones()
            if row.expires_at < now or (row.app_id and not live_apps(row.app_id))
        ]
        for row in doomed:
            await self._delete(row)
        return len(doomed)

    async def _delete(self, row: ObjectRow) -> None:
        if await self._store.delete(row.number):
            _log.info("deleted %s %s%s", row.kind, row.object_id, f" ({row.name})" if row.name else "")
            await self.on_dropped[row.kind](row.object_id, row.number)


def kind_of(object_id: str) -> str:
    """What an id is of. Fault: invalid."""
    for kind, prefix in PREFIXES.items():
        if object_id.startswith(f"{prefix}-"):
            return kind
    raise Fault(Code.INVALID, f"{object_id[:80]!r} is the id of neither a Dict nor a Queue")


def _title(kind: str) -> str:
    title = TITLES.get(kind)
    if title is None:
        raise Fault(Code.INVALID, f"there are no objects of kind {kind[:80]!r}")
    return title


def _not_there(kind: str, environment: Environment, name: str) -> Fault:
    return Fault(
        Code.NOT_FOUND,
        f"{TITLES[kind]} {name[:80]!r} not found in environment {environment.name!r}: create it with "
        f"`modal {kind} create {name[:80]}`, or pass create_if_missing=True to from_name",
    )
