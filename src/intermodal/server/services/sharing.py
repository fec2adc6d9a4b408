"""What many may do at the same time, unless somebody has to be alone for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Sharing:
    """`async with sharing.together():` of any number, or `async with sharing.alone():`, who is next then."""

    def __init__(self) -> None:
        self._count = 0
        self._alone = asyncio.Lock()
        self._nobody = asyncio.Event()
        self._nobody.set()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Beside others."""
        async with self._alone:
            self._count += 1
            self._nobody.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._nobody.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Beside nobody."""
        async with self._alone:
            await self._nobody.wait()
            yield
