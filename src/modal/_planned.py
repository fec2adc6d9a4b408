"""Documented calls that this version does not have yet: they exist, with their signature, and say so when used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from modal._sync import synchronized
from modal.exception import NotImplementedYetError

F = TypeVar("F")


def not_yet(what: str) -> NotImplementedYetError:
    return NotImplementedYetError(f"{what} is not implemented yet in this version of Intermodal.")


if TYPE_CHECKING:

    def planned(function: F) -> F: ...

else:

    def planned(function: Any) -> Any:
        """Stands outermost, over `@classmethod` and `@staticmethod`. The result blocks and has `.aio`; both raise."""
        kind = type(function) if isinstance(function, (classmethod, staticmethod)) else None
        inner = function.__func__ if kind is not None else function

        async def refuse(*_args: Any, **_kwargs: Any) -> Any:
            raise not_yet(f"modal.{inner.__qualname__}")

        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            setattr(refuse, name, getattr(inner, name))
        refuse.__wrapped__ = inner
        return synchronized(refuse if kind is None else kind(refuse))
