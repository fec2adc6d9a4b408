"""Learn from the kernel, by inotify, when a runtime has written a container's pid file."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

from intermodal.worker.containers import kernel

_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
NAME = b"pid"


class PidFiles:
    """One inotify descriptor for all containers that are starting."""

    def __init__(self) -> None:
        self._fd = kernel.inotify_init()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def watch(self, directory: Path) -> int:
        """From any thread, before the runtime starts."""
        return kernel.inotify_add_watch(self._fd, str(directory), kernel.IN_CLOSE_WRITE | kernel.IN_MOVED_TO)

    def written(self, watch: int) -> asyncio.Future[None]:
        """Done once the pid file of this watch is complete. In the loop's thread, before the runtime starts."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[watch] = future
        return future

    def forget(self, watch: int) -> None:
        """Stop watching."""
        self._waiting.pop(watch, None)
        kernel.inotify_rm_watch(self._fd, watch)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if name == NAME:
                future = self._waiting.get(watch)
                if future is not None and not future.done():
                    future.set_result(None)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
