"""What dicts' store may hear of a little later: which entries were read, and that what was popped has arrived."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from intermodal.server.store.dicts import DictStore

DELAY = 5.0  # seconds until they are on the disk


class LateNotes:
    """Collects them, and writes them together. `delete` takes large values that nobody needs any more."""

    def __init__(
        self, store: DictStore, now: Callable[[], float], delete: Callable[[list[str]], Awaitable[None]]
    ) -> None:
        self._store = store
        self._now = now
        self._delete = delete
        self._touched: set[tuple[int, bytes]] = set()
        self._arrived: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def touched(self, number: int, key: bytes) -> None:
        """This entry of the dict with this number was read."""
        self._touched.add((number, key))
        self._later()

    def arrived(self, token: bytes) -> None:
        """What was popped under this token is with its client."""
        self._arrived.append(token)
        self._later()

    async def write(self) -> None:
        """Note all of it now."""
        touched, self._touched = self._touched, set()
        arrived, self._arrived = self._arrived, []
        if touched:
            await self._store.touch(sorted(touched), self._now())
        if arrived:
            await self._delete(await self._store.popped_arrived(arrived))

    async def close(self) -> None:
        """Note what is left."""
        for task in self._tasks:
            task.cancel()
        await self.write()

    def _later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY, self._begin)

    def _begin(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self.write())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
