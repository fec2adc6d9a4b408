"""Work that several callers may ask for at once and that is done once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from intermodal.worker.images.layers import Layer

BACKLOG = 2000  # messages that a caller who comes late is still told

Log = Callable[[str, str], None]  # takes a kind of BuildLog, and text


class Job:
    """One layer that is being built, and everybody who waits for it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Layer] | None = None
        self.waiting = 0
        self.listeners: list[Log] = []
        self._said: deque[tuple[str, str]] = deque(maxlen=BACKLOG)

    def say(self, kind: str, text: str) -> None:
        if kind != "progress":
            self._said.append((kind, text))
        for listener in self.listeners:
            listener(kind, text)

    def listen(self, listener: Log) -> None:
        for kind, text in self._said:
            listener(kind, text)
        self.listeners.append(listener)


class Jobs:
    """The layers that are being built in this process, by key."""

    def __init__(self) -> None:
        self._running: dict[str, Job] = {}

    async def run(self, key: str, make: Callable[[Log], Awaitable[Layer]], log: Log) -> Layer:
        """The result of `make`, which runs once for all who ask meanwhile; it ends when the last one gives up."""
        job = self._running.get(key)
        if job is None:
            job = self._running[key] = Job()
            job.task = asyncio.create_task(self._do(key, job, make))
        assert job.task is not None
        job.listen(log)
        job.waiting += 1
        try:
            return await asyncio.shield(job.task)
        except asyncio.CancelledError:
            if job.waiting == 1 and not job.task.done():
                self._forget(key, job)  # whoever asks now begins anew
                job.task.cancel()
                await asyncio.wait([job.task])
            raise
        finally:
            job.waiting -= 1
            job.listeners.remove(log)

    async def close(self) -> None:
        """End everything that runs."""
        tasks = [job.task for job in self._running.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _do(self, key: str, job: Job, make: Callable[[Log], Awaitable[Layer]]) -> Layer:
        try:
            return await make(job.say)
        finally:
            self._forget(key, job)

    def _forget(self, key: str, job: Job) -> None:
        if self._running.get(key) is job:
            del self._running[key]
