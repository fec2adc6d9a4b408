"""The calls of `modal._invocation` as an SDK would offer them: with two faces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from modal import _invocation
from modal._client import Client
from modal._invocation import Target
from modal._sync import synchronized, synchronized_iterator


class Fn:
    def __init__(self, client: Client, function_id: str, **target: str) -> None:
        self.client = client
        self.target = Target(function_id, name=function_id, **target)

    @synchronized
    async def remote(self, *args: Any, **kwargs: Any) -> Any:
        return await _invocation.invoke(self.client, self.target, args, kwargs)

    @synchronized
    async def remote_gen(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        items = _invocation.invoke_gen(self.client, self.target, args, kwargs)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    @synchronized_iterator("map was not iterated")
    async def map(self, *iterators: Any, kwargs: Any = None, **options: Any) -> AsyncIterator[Any]:
        source = _invocation.sources(iterators, kwargs or {})
        results = _invocation.map_(self.client, self.target, source, **options)
        try:
            async for item in results:
                yield item
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    @synchronized
    async def starmap(self, items: Any, **options: Any) -> AsyncIterator[Any]:
        results = _invocation.map_(self.client, self.target, _invocation.star_source(items, {}), **options)
        try:
            async for item in results:
                yield item
        finally:
            await results.aclose()  # type: ignore[attr-defined]

    @synchronized
    async def for_each(self, *iterators: Any, ignore_exceptions: bool = False) -> None:
        source = _invocation.sources(iterators, {})
        await _invocation.for_each(self.client, self.target, source, ignore_exceptions=ignore_exceptions)

    @synchronized
    async def spawn(self, *args: Any, **kwargs: Any) -> str:
        return await _invocation.spawn(self.client, self.target, args, kwargs)

    @synchronized
    async def spawn_map(self, *iterators: Any) -> str:
        return await _invocation.spawn_map(self.client, self.target, _invocation.sources(iterators, {}))

    @synchronized
    async def get(self, call_id: str, index: int = 0, timeout: float | None = None) -> Any:
        return await _invocation.call_result(self.client, call_id, index, timeout)
