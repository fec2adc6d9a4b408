"""Generators that warn when they are dropped before anybody has asked them for anything: nothing of them has run."""

from __future__ import annotations

import sys
from typing import Any


class Noticing:
    """The async face of a generator function that warns when its result is dropped unused."""

    __slots__ = ("function", "unused")

    def __init__(self, function: Any, unused: str) -> None:
        self.function = function
        self.unused = unused

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return NoticingAsyncIterator(self.function(*args, **kwargs), self.unused)

    @property
    def __wrapped__(self) -> Any:
        return self.function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


class _Unused:
    """A generator that warns when nobody has asked it for anything before it is dropped."""

    __slots__ = ("__weakref__", "_generator", "_unused")

    def __init__(self, generator: Any, unused: str) -> None:
        self._generator = generator
        self._unused = unused

    def __del__(self) -> None:
        if self._unused and not sys.is_finalizing():
            import warnings

            warnings.warn(self._unused, stacklevel=2, source=self)


class NoticingIterator(_Unused):
    __slots__ = ()

    def __iter__(self) -> NoticingIterator:
        return self

    def __next__(self) -> Any:
        self._unused = ""
        return next(self._generator)

    def close(self) -> None:
        """Give up what has not come yet."""
        self._unused = ""
        self._generator.close()


class NoticingAsyncIterator(_Unused):
    __slots__ = ()

    def __aiter__(self) -> NoticingAsyncIterator:
        return self

    def __anext__(self) -> Any:
        self._unused = ""
        return self._generator.__anext__()

    async def aclose(self) -> None:
        """Give up what has not come yet."""
        self._unused = ""
        await self._generator.aclose()
