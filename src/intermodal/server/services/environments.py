"""Environments. All of them are held in memory: there are few, and every name needs one."""

from __future__ import annotations

import itertools

from intermodal.server.principal import Principal
from intermodal.server.services.names import check_name, check_web_suffix, is_name
from intermodal.server.store.environments import Environment, EnvironmentStore
from modal._protocol.errors import Code, Fault


class Environments:
    """Load it with `await environments.load()`."""

    def __init__(self, store: EnvironmentStore) -> None:
        self._store = store
        self._by_name: dict[str, Environment] = {}
        self._by_id: dict[str, Environment] = {}

    async def load(self) -> None:
        found = await self._store.all()
        self._by_name = {environment.name: environment for environment in found}
        self._by_id = {environment.environment_id: environment for environment in found}

    @property
    def all(self) -> list[Environment]:
        return list(self._by_name.values())

    @property
    def default(self) -> Environment:
        """The workspace's default environment."""
        return next(environment for environment in self._by_name.values() if environment.default)

    def resolve(self, name: str, principal: Principal | None = None) -> Environment:
        """The named one; without a name the container's own, else the default. Fault: not-found.

        A container goes on naming its own as it was called when it was started.
        """
        if principal is not None and principal.environment_id and name in ("", principal.started_in):
            own = self._by_id.get(principal.environment_id)
            if own is None:
                raise Fault(Code.NOT_FOUND, f"the environment {principal.started_in!r} of this container was deleted")
            return own
        name = name or (principal.environment if principal is not None else "")
        if not name:
            return self.default
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(self._by_name)
            how = f" Create it with `modal environment create {name}`, or choose" if is_name(name) else " Choose"
            raise Fault(
                Code.NOT_FOUND,
                f"Environment {name[:80]!r} not found: there are {known}.{how} another one with --env, "
                "MODAL_ENVIRONMENT or `modal config set-environment`.",
            )
        return found

    def name_of(self, environment_id: str) -> str:
        """Its name, "" where it was deleted."""
        found = self._by_id.get(environment_id)
        return found.name if found is not None else ""

    def web_suffix_of(self, environment_id: str) -> str:
        """What stands for it in host names; "" for nothing."""
        found = self._by_id.get(environment_id)
        return found.web_suffix if found is not None else ""

    async def create(self, name: str) -> None:
        """Faults: invalid, conflict."""
        check_name("Environment", name)
        # The suffix is a part of host names: what cannot stand there is left out.
        suffix = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
        taken = {environment.web_suffix for environment in self._by_name.values()}
        numbered = (f"{suffix}-{number}".strip("-") for number in itertools.count(2))
        if suffix in taken:
            suffix = next(one for one in numbered if one not in taken)
        if not await self._store.create(name, suffix):
            raise Fault(Code.CONFLICT, f"there is an environment {name!r} already")
        await self.load()

    async def update(self, name: str, new_name: str, web_suffix: str | None) -> None:
        """Faults: not-found, invalid, conflict."""
        environment = self.resolve(name)
        if web_suffix is not None:
            check_web_suffix(web_suffix)
            for other in self._by_name.values():
                if other.web_suffix == web_suffix and other.environment_id != environment.environment_id:
                    raise Fault(
                        Code.CONFLICT,
                        f"the environment {other.name!r} has the web suffix {web_suffix!r} already: addresses of web "
                        "functions would be the same",
                    )
        done = await self._store.update(
            environment.environment_id,
            check_name("Environment", new_name) if new_name else environment.name,
            environment.web_suffix if web_suffix is None else web_suffix,
        )
        if not done:
            raise Fault(Code.CONFLICT, f"there is an environment {new_name!r} already")
        await self.load()

    async def delete(self, environment: Environment) -> None:
        """With its secrets; its apps have been stopped before. Fault: invalid for the default one."""
        self.check_deletable(environment)
        await self._store.delete(environment.environment_id)
        await self.load()

    def check_deletable(self, environment: Environment) -> None:
        if environment.default:
            raise Fault(Code.INVALID, f"{environment.name!r} is the default environment and cannot be deleted")
