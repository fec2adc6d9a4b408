"""What all objects that live on the server have in common: an id, and the way to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Optional

from modal._sync import synchronized
from modal.exception import ExecutionError, InvalidError

if TYPE_CHECKING:
    from typing_extensions import Self

    from modal._client import Client

EPHEMERAL_OBJECT_HEARTBEAT_SLEEP = 300.0  # seconds

_NAME = re.compile(r"[A-Za-z0-9._-]+\Z")
MAX_NAME = 63  # characters


def check_object_name(name: Any, kind: str) -> str:
    """Raise InvalidError unless `name` may name an object on the server."""
    if not isinstance(name, str):
        article = "an" if kind[:1] in "AEIOU" else "a"
        raise InvalidError(f"The name of {article} {kind} must be a string, not {type(name).__name__}.")
    if not _NAME.match(name) or len(name) > MAX_NAME:
        raise InvalidError(
            f"Invalid {kind} name: {name!r}. Names may have letters, digits, dashes, periods and underscores, "
            f"and must be shorter than {MAX_NAME + 1} characters."
        )
    return name


def check_reference(
    app_name: str, name: Any, kind: str, environment_name: Optional[str]
) -> tuple[str, str, Optional[str]]:
    """What `from_name` of a function or class was given. Raises InvalidError."""
    if not isinstance(name, str) or not name:
        given = "must not be empty" if name == "" else f"must be a string, not {type(name).__name__}"
        raise InvalidError(f"The name of a {kind} {given}.")
    return check_object_name(app_name, "App"), name, check_environment_name(environment_name)


def check_environment_name(name: Any) -> Optional[str]:
    """Raise InvalidError unless `name` may name an environment, or is None."""
    if name is not None and not isinstance(name, str):
        raise InvalidError(f"environment_name must be a string, not {type(name).__name__}.")
    return name


class Object:
    """An object of the server's: referred to first, resolved ("hydrated") when it is first needed."""

    _kind = "object"  # for people
    _made_by = "from_name"  # what gives one, as it is written behind the class's name
    _object_id: Optional[str] = None
    _client: Optional[Client] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nobody makes one like this. Raises InvalidError that says how."""
        title = type(self).__name__
        raise InvalidError(f"modal.{title} is not made by calling it: use modal.{title}.{self._made_by}.")

    @property
    def object_id(self) -> str:
        """The unique id of this object on the server, once it is hydrated."""
        if self._object_id is None:
            raise ExecutionError(
                f"{self!r} has no id yet: call .hydrate() first, or use it inside `with app.run()` or a container."
            )
        return self._object_id

    @property
    def is_hydrated(self) -> bool:
        """Whether the object is known on the server."""
        return self._object_id is not None

    @synchronized
    async def hydrate(self, client: Optional[Client] = None) -> Self:
        """Synchronize the local object with its identity on the Modal server.

        It is rarely necessary to call this method explicitly, as most operations will lazily hydrate when needed.
        The main use case is when you need to access object metadata, such as its ID.
        """
        if client is not None and not hasattr(client, "request"):
            raise InvalidError(f"hydrate takes a modal.Client, or nothing, not {type(client).__name__}.")
        await self._ready(client)
        return self

    async def _ready(self, client: Optional[Client] = None) -> Client:
        """Hydrate where that has not happened, and return the client to go on with."""
        client = client or self._client
        if client is None:
            from modal._client import Client

            client = Client.current()
        self._client = client
        if self._object_id is None:
            await self._load(client)
        return client

    async def _load(self, client: Client) -> None:
        """Find or make the object on the server and set `_object_id`."""
        raise NotImplementedError

    @classmethod
    def _from_object_id(cls, object_id: str) -> Self:
        """An object that is known to exist."""
        made = cls.__new__(cls)
        made._object_id = object_id
        return made

    def __reduce__(self) -> Any:
        if self._object_id is None:
            raise ExecutionError(f"{self!r} cannot be sent before it is hydrated: call .hydrate() first.")
        return _restore, (type(self), self._object_id)

    def __repr__(self) -> str:
        return f"modal.{type(self).__name__}({self._object_id or 'not hydrated'})"


def environment_to_send(environment_name: Optional[str]) -> Optional[str]:
    """What an object that is sent by its name takes along: the container's environment goes with it."""
    from modal import _context

    return environment_name if _context.is_local() else environment_of(environment_name) or None


def _restore(cls: type[Object], object_id: str) -> Object:
    return cls._from_object_id(object_id)


def environment_of(environment_name: Optional[str]) -> str:
    """The environment to name to the server: the given, the container's or the configured one, or "" (its default)."""
    if environment_name:
        return check_environment_name(environment_name) or ""
    from modal import _context

    if _context.spec is not None and _context.spec.environment:
        return _context.spec.environment
    from modal.config import config

    return config.get("environment") or ""
