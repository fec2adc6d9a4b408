"""Large values by blob id, for peers that share no directory with the server."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

from intermodal.disk import disk_fault, sync
from intermodal.server.ids import is_blob_id
from intermodal.spares import Spares, remove_all, spare_of
from modal._protocol.errors import Code, Fault
from modal._protocol.home import owners_dir

CHUNK = 1 << 20  # bytes
ABANDONED = 8 * 86400.0  # seconds after which a value that nobody refers to is deleted
UNFINISHED = 86400.0  # the same for one that was never completed
_numbers = itertools.count()
_log = logging.getLogger(__name__)


class Values:
    """The directory `values/`. A value appears under its name when it is whole."""

    def __init__(self, directory: Path, *in_use: Callable[[list[str]], Awaitable[set[str]]]) -> None:
        """`in_use`: each says which of these values it still needs."""
        self.directory = directory
        self.owners = Path(owners_dir(str(directory)))
        self.owners.mkdir(mode=0o700, exist_ok=True)
        self._in_use = in_use
        self._spares = Spares()  # of clients
        self._unwanted: list[str] = []  # what `forget_soon` has been told of
        self._forgetting: asyncio.Task[None] | None = None

    def path(self, blob_id: str) -> Path:
        """Where the value lies, or will lie. Fault: invalid."""
        if not is_blob_id(blob_id):
            raise Fault(Code.INVALID, f"{blob_id[:80]!r} is no blob id")
        return self.directory / blob_id

    async def put(self, blob_id: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        """Take a value in. Faults: invalid (it has another size), exhausted (the disk is full)."""
        target = self.path(blob_id)
        temporary = self.directory / f".{blob_id}.{os.getpid()}-{next(_numbers)}"
        try:
            with temporary.open("xb") as file:
                written = 0
                async for chunk in chunks:
                    written += len(chunk)
                    if written > size:
                        raise Fault(Code.INVALID, f"{blob_id} is longer than the {size} bytes that were announced")
                    await asyncio.to_thread(file.write, chunk)
                if written != size:
                    raise Fault(Code.INVALID, f"{blob_id} ended after {written} of {size} bytes")
            temporary.rename(target)
        except OSError as error:
            raise disk_fault(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)

    async def chunks(self, blob_id: str) -> AsyncIterator[bytes]:
        """The content. Fault: not-found."""
        path = self.path(blob_id)
        try:
            with path.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise Fault(Code.NOT_FOUND, f"the value {blob_id} is not kept any more") from None

    def secure(self, blob_id: str) -> int:
        """Put a value on the disk for good; its size. Blocks for as long as that takes. Fault: not-found."""
        try:
            with self.path(blob_id).open("rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise Fault(Code.NOT_FOUND, f"the value {blob_id} did not arrive: try again") from None
        sync(self.directory)  # its name too
        return size

    async def forget(self, blob_ids: list[str]) -> None:
        """Delete what was read, unless a stored call or a dict still needs it."""
        wanted = [blob_id for blob_id in blob_ids if is_blob_id(blob_id)]
        kept = await self._kept(wanted)
        doomed = [self.path(blob_id) for blob_id in wanted if blob_id not in kept]
        for path, size in await asyncio.to_thread(_unlink, doomed):  # milliseconds for a large one
            self._spares.keep(path, size)

    def forget_soon(self, blob_ids: Iterable[str]) -> None:
        """As `forget`, for who does not wait."""
        self._unwanted += blob_ids
        if self._unwanted and self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().create_task(self._forget_all())

    async def _forget_all(self) -> None:
        try:
            while self._unwanted:
                blob_ids, self._unwanted = self._unwanted, []
                try:
                    await self.forget(blob_ids)
                except Exception:  # the sweep finds them later
                    _log.exception("%d values could not be deleted", len(blob_ids))
        finally:
            self._forgetting = None

    def drop_spares(self) -> None:
        """What clients would use again: when a server ends, and when one begins after a killed one. Blocking."""
        self._spares.close()
        remove_all(self.directory)

    async def sweep(self) -> int:
        """Delete what nobody has asked for in a long time, and what was of use to a process alone that has ended; how
        many."""
        return await self._sweep_old() + await asyncio.to_thread(self._sweep_ownerless)

    def _sweep_ownerless(self) -> int:
        """See `modal._value_owner`. Blocking."""
        count = 0
        for owner in self.owners.iterdir():
            with owner.open("rb") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # it lives
                doomed = list(self.directory.glob(f"vl-{owner.name}*"))
                for path in doomed:
                    path.unlink(missing_ok=True)
                count += len(doomed)
                owner.unlink(missing_ok=True)
        return count

    async def _sweep_old(self) -> int:
        now = time.time()
        old = await asyncio.to_thread(self._older, now)
        named = [name for name in old if is_blob_id(name)]
        kept = await self._kept(named)
        doomed = [name for name in old if name not in kept]
        await asyncio.to_thread(_unlink, [self.directory / name for name in doomed])
        return len(doomed)

    async def _kept(self, blob_ids: list[str]) -> set[str]:
        return {blob_id for in_use in self._in_use for blob_id in await in_use(blob_ids)}

    def _older(self, now: float) -> list[str]:
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                limit = ABANDONED if is_blob_id(entry.name) else UNFINISHED
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < now - limit:
                    found.append(entry.name)
        return found


def _unlink(paths: list[Path]) -> list[tuple[Path, int]]:
    """What is beside them for their writers to use again: see `spares`."""
    for path in paths:
        path.unlink(missing_ok=True)
    return [spare for path in paths if (spare := spare_of(path)) is not None]
