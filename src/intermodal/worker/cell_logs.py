"""What one container prints, on its way to the server: read, numbered, and held back where the server is behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from intermodal.worker.containers.running import Running
from intermodal.worker.log_spool import LogSpool
from intermodal.worker.logs import LogPump
from modal._protocol.aio import Connection
from modal._protocol.errors import WireError
from modal._protocol.messages.log import LogEntry
from modal._protocol.messages.worker import ContainerLogs

HELD_LOGS = 4 << 20  # bytes of output that the server has not taken in; beyond that the container waits


class CellLogs:
    """`emit` sends entries to the server, while `connected` says that it is there; those it lacks are kept."""

    def __init__(self, spool: LogSpool, emit: Callable[[ContainerLogs], None], connected: Callable[[], bool]) -> None:
        self._spool = spool
        self._emit = emit
        self._connected = connected
        self._pump: LogPump | None = None  # None before the process runs
        self._held = False  # until the connection is less busy
        self._full = False  # the container waits until the server has taken more in
        self._release: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls, directory: Path, app_id: str, container_id: str, emit: Callable[[ContainerLogs], None],
        connected: Callable[[], bool],
    ) -> CellLogs:  # fmt: skip
        """Those of a container with this directory."""
        return cls(LogSpool(directory / "logs.spool", app_id, container_id), emit, connected)

    def open(self, running: Running, attribute: Callable[[str | None], str]) -> None:
        """The process runs: read what it prints. `attribute` says which input has printed."""
        self._spool.open()
        self._pump = LogPump(running.stdout_fd, running.stderr_fd, self.put, attribute, self._spool)
        self._pump.start()

    def put(self, entries: list[LogEntry]) -> None:
        message = self._spool.put(entries)
        if self._connected():
            self._emit(message)
        if self._spool.size > HELD_LOGS and not self._full and self._pump is not None:
            self._full = True
            self._pump.stop()

    def drain(self) -> None:
        """Take in what was printed until now."""
        if self._pump is not None and (self._connected() or not self._full):
            self._pump.drain()

    # -- the server comes, goes, and is behind
    def resend(self) -> None:
        """The server is there (again): it gets what it has not acknowledged."""
        for message in self._spool.waiting():
            self._emit(message)

    def read(self) -> None:
        """Read what is printed, unless too much waits."""
        if self._pump is not None and not self._full:
            self._pump.start()

    def pause(self) -> None:
        """What is printed stays in the pipes."""
        if self._pump is not None:
            self._pump.stop()

    def hold(self, connection: Connection) -> None:
        """The way to the server is congested: read on when it is free again."""
        if self._pump is not None and not self._held:
            self._held = True
            self._pump.stop()
            self._release = connection.loop.create_task(self._read_after(connection))

    async def _read_after(self, connection: Connection) -> None:
        try:
            await connection.drain()
        except WireError:
            pass  # who connects again reads on
        self._held = False
        if self._connected():
            self.read()

    def acknowledged(self, count: int) -> None:
        """The server has kept entries up to this number."""
        self._spool.acknowledged(count)
        if self._full and self._spool.size < HELD_LOGS // 2:
            self._full = False
            if self._connected() and not self._held:
                self.read()

    @property
    def is_empty(self) -> bool:
        """Whether the server has all."""
        return self._spool.is_empty

    def end(self) -> None:
        """The process is gone: there will be no more."""
        if self._pump is not None:
            self._pump.close()

    def close(self) -> None:
        self.end()
        self._spool.close()
