"""What commands ask the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Type, TypeVar

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.message import Message
    from modal._protocol.messages.app import AppInfo

    M = TypeVar("M", bound=Message)
else:
    M = TypeVar("M")


def client() -> Client:
    """The client of this process, as the profile and the environment configure it."""
    from modal._client import Client

    return Client.current()


def ask(message: Message, expect: Type[M]) -> M:
    """One question, one answer. Raises modal.exception's errors."""
    from modal import _sync

    return _sync.run(client().request(message, expect))


def find_app(name_or_id: str, environment: str) -> AppInfo:
    """The app of this name or id. Raises NotFoundError."""
    from modal._protocol.messages.app import AppInfo, AppLookup

    return ask(AppLookup(name_or_id, environment), AppInfo)
