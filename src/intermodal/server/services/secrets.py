"""Secrets: created, looked up, and opened for the containers that name them."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time

from intermodal.server.ids import new_id
from intermodal.server.services.names import check_name
from intermodal.server.services.vault import Vault
from intermodal.server.store.environments import Environment
from intermodal.server.store.secrets import SecretRow, SecretStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.secret import MAX_ENVIRONMENT, MAX_VALUES, MAX_VARIABLE, size_of

USED_STEP = 3600.0  # seconds: how exact "last used" is
INLINE_KEPT = 86400.0  # seconds that an inline secret is kept after its last use when no app names it
_VARIABLE = re.compile(r"[^=\0]+")
_SURROGATE = re.compile("[\ud800-\udfff]")  # what Python makes of bytes that are no UTF-8


class Secrets:
    def __init__(self, store: SecretStore, vault: Vault) -> None:
        self._store = store
        self._vault = vault

    async def create(self, environment: Environment, name: str, values: dict[str, str], overwrite: bool) -> str:
        """A named secret; its id. Faults: invalid, conflict."""
        check_name("Secret", name)
        _check_values(values)
        known = await self._store.by_name(environment.environment_id, name)
        if known is not None and not overwrite:
            raise Fault(
                Code.CONFLICT,
                f"there is a secret {name!r} in the environment {environment.name!r} already: "
                "use --force to replace its values",
            )
        secret_id = known.secret_id if known is not None else new_id("st")
        row = SecretRow(
            secret_id, environment.environment_id, name, self._vault.seal(secret_id, values), time.time(), 0.0
        )
        try:
            await self._store.put(row)
        except sqlite3.IntegrityError:
            raise Fault(Code.CONFLICT, f"somebody else has just created the secret {name!r}") from None
        return secret_id

    async def create_inline(self, environment: Environment, values: dict[str, str]) -> str:
        """A secret without a name; equal values give the same id."""
        _check_values(values)
        secret_id = self._vault.content_id(values)
        if secret_id not in await self._store.get([secret_id]):
            sealed = self._vault.seal(secret_id, values)
            await self._store.put(SecretRow(secret_id, environment.environment_id, "", sealed, time.time(), 0.0))
        else:
            await self._store.used([secret_id])
        return secret_id

    async def lookup(self, environment: Environment, name: str, required_keys: list[str]) -> str:
        """The id of a named secret. Faults: not-found; invalid when a required key is missing."""
        row = await self._named(environment, name)
        missing = [key for key in required_keys if key not in self._vault.open(row.secret_id, row.content)]
        if missing:
            raise Fault(Code.INVALID, f"Secret {name!r} is missing key(s): {', '.join(missing)}")
        return row.secret_id

    async def all(self, environment: Environment) -> list[SecretRow]:
        return await self._store.named(environment.environment_id)

    async def delete(self, environment: Environment, name: str) -> None:
        """Fault: not-found."""
        row = await self._named(environment, name)
        await self._store.delete(row.secret_id)

    async def values(self, secret_ids: list[str]) -> dict[str, dict[str, str]]:
        """The variables of each secret, for a container or build. Fault: not-found."""
        if not secret_ids:
            return {}
        rows = await self._store.get(secret_ids)
        for secret_id in secret_ids:
            if secret_id not in rows:
                raise Fault(Code.NOT_FOUND, f"secret {secret_id} was deleted: create it again, then deploy again")
        stale = [secret_id for secret_id, row in rows.items() if row.used_at < time.time() - USED_STEP]
        if stale:
            await self._store.used(stale)
        return {secret_id: self._vault.open(secret_id, row.content) for secret_id, row in rows.items()}

    async def open(self) -> None:
        """End a rotation of the key in whose middle a server died."""
        if self._vault.rotating:
            await self.rotate_key()

    async def rotate_key(self) -> int:
        """Encrypt all secrets with a new key; how many. Containers that run are not concerned."""
        self._vault.begin_rotation()
        count = await self._store.reseal(self._vault.reseal)
        await asyncio.to_thread(self._vault.finish_rotation)
        return count

    async def merged(self, secret_ids: list[str]) -> dict[str, str]:
        """The variables of all these secrets; later ones win. Faults: not-found, too-large."""
        opened = await self.values(secret_ids)
        values = {key: value for secret_id in secret_ids for key, value in opened[secret_id].items()}
        if size_of(values) > MAX_ENVIRONMENT:
            raise Fault(
                Code.TOO_LARGE,
                f"its secrets have {size_of(values) >> 10} KiB of variables together, and a container takes "
                f"{MAX_ENVIRONMENT >> 10}: keep what is large in a modal.Volume",
            )
        return values

    async def check(self, secret_ids: set[str]) -> None:
        """Fault(not-found) unless all of them exist."""
        missing = secret_ids - set(await self._store.get(sorted(secret_ids)))
        if missing:
            raise Fault(Code.NOT_FOUND, f"there is no secret {min(missing)}")

    async def _named(self, environment: Environment, name: str) -> SecretRow:
        row = await self._store.by_name(environment.environment_id, name)
        if row is None:
            raise Fault(
                Code.NOT_FOUND,
                f"Secret {name!r} not found in environment {environment.name!r}: "
                f"create it with `modal secret create {name} KEY=VALUE`",
            )
        return row


def _check_values(values: dict[str, str]) -> None:
    for key, value in values.items():
        if not _VARIABLE.fullmatch(key) or "\0" in value:
            raise Fault(
                Code.INVALID, f"{key!r} cannot be an environment variable: no '=' in its name, no NUL in name or value"
            )
        if _SURROGATE.search(key) or _SURROGATE.search(value):
            raise Fault(
                Code.INVALID,
                f"{key!a} cannot be an environment variable: name or value has bytes that are no UTF-8 text. Encode "
                "them, say with base64",
            )
        if len(f"{key}={value}".encode()) >= MAX_VARIABLE:
            raise Fault(Code.INVALID, f"the value of {key!r} is larger than the {MAX_VARIABLE >> 10} KiB of a variable")
    if size_of(values) > MAX_VALUES:
        raise Fault(Code.TOO_LARGE, f"the variables of one secret have at most {MAX_VALUES >> 10} KiB together")
