"""Objects that are found by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

from modal._object import Object, check_environment_name, check_object_name, environment_to_send
from modal._planned import not_yet

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.messages.function import VolumeMount


class _Named(Object):
    """An object that is found by its name, and made where it is missing when that was asked for."""

    _name = ""
    _environment: Optional[str] = None
    _create = False

    @classmethod
    def _named(cls, name: str, environment_name: Optional[str], create_if_missing: bool) -> Any:
        made = cls.__new__(cls)
        made._name = check_object_name(name, cls.__name__)
        made._environment = check_environment_name(environment_name)
        made._create = create_if_missing
        return made

    @classmethod
    def lookup(
        cls,
        name: str,
        namespace: Any = None,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> Any:
        """Deprecated: use `from_name`, and `hydrate` where the object must exist at once."""
        from modal._deprecation import warn_deprecated

        title = cls.__name__
        warn_deprecated(f"{title}.lookup is deprecated. Use {title}.from_name instead, and .hydrate() if needed.")
        made = cls._named(name, environment_name, create_if_missing)
        made.hydrate(client)
        return made

    async def _load(self, client: Client) -> None:
        raise not_yet(f"modal.{type(self).__name__}")

    async def _mount(self, client: Client, path: str) -> VolumeMount:
        """As a part of a function's spec."""
        raise not_yet(f"Mounting a modal.{type(self).__name__} (here at {path})")

    def __reduce__(self) -> Any:
        if self._object_id is None and self._name:
            return _restore_named, (type(self), self._name, environment_to_send(self._environment), self._create)
        return super().__reduce__()

    def __repr__(self) -> str:
        return f"modal.{type(self).__name__}.from_name({self._name!r})" if self._name else super().__repr__()


def _restore_named(cls: type[_Named], name: str, environment: Optional[str], create: bool) -> Any:
    return cls._named(name, environment, create)
