"""Sets of local files: the server keeps which files, and the file store their content."""

from __future__ import annotations

import asyncio
import itertools
import posixpath
from collections.abc import Iterable
from typing import Any

from intermodal.files import Files, check_digest
from intermodal.server.store.images import ImageStore
from modal._protocol.errors import Code, Fault
from modal._protocol.message import from_json
from modal._protocol.messages.file import FileEntry, mount_id_of


class Mounts:
    def __init__(self, store: ImageStore, files: Files) -> None:
        self._store = store
        self._files = files
        self._whole: set[str] = set()  # those whose files this process has seen
        self._durable: set[str] = set()  # those whose files it has synced

    async def put(self, entries: list[FileEntry]) -> str:
        """The id of this set of files. Faults: invalid (a path), not-found (a file that was not uploaded)."""
        for entry in entries:
            check_entry(entry)
        entries.sort(key=lambda entry: entry.path)
        for one, other in itertools.pairwise(entries):
            if one.path == other.path:
                raise Fault(Code.INVALID, f"two files want the path {one.path}")
        missing = await asyncio.to_thread(self._files.missing_now, [entry.hash for entry in entries if entry.hash])
        if missing:
            path = next(entry.path for entry in entries if entry.hash == missing[0])
            raise Fault(
                Code.NOT_FOUND, f"{len(missing)} files were not uploaded yet, the first is {path} ({missing[0]})"
            )
        mount_id = mount_id_of(entries)
        await self._store.put_mount(mount_id, entries)
        self._whole.add(mount_id)
        return mount_id

    async def missing(self, mount_ids: list[str]) -> list[str]:
        """Those of these sets that are not known, or whose files are not all here."""
        known = self._whole.intersection(mount_ids)
        for mount_id in await self._store.known_mounts(set(mount_ids) - known):
            if not await asyncio.to_thread(self._files.missing_now, await self._digests(mount_id)):
                known.add(mount_id)
        self._whole |= known
        return [mount_id for mount_id in mount_ids if mount_id not in known]

    async def make_durable(self, mount_ids: Iterable[str]) -> None:
        """Return once the files of these sets are on the disk. Faults: not-found, exhausted, internal."""
        wanted = [mount_id for mount_id in dict.fromkeys(mount_ids) if mount_id not in self._durable]
        digests = [digest for mount_id in wanted for digest in await self._digests(mount_id)]
        await asyncio.to_thread(self._files.make_durable, digests)
        self._durable.update(wanted)

    async def _digests(self, mount_id: str) -> list[str]:
        entries = [from_json(FileEntry, entry) for entry in await self.entries(mount_id)]
        return [entry.hash for entry in entries if entry.hash]

    async def entries(self, mount_id: str) -> list[Any]:
        """As JSON. Fault: not-found."""
        entries = await self._store.mount(mount_id)
        if entries is None:
            raise Fault(Code.NOT_FOUND, f"there is no mount {mount_id}")
        return entries


def check_entry(entry: FileEntry) -> None:
    """Fault(invalid) for a path that could lead astray."""
    path = entry.path
    if not path.startswith("/") or "\0" in path or posixpath.normpath(path) != path or path == "/":
        raise Fault(Code.INVALID, f"{path[:200]!r} is no path for a file: it must be absolute and in its shortest form")
    if entry.link:
        if "\0" in entry.link or entry.hash:
            raise Fault(Code.INVALID, f"{path}: a symbolic link has a target and no content")
        return
    if entry.hash:
        check_digest(entry.hash)
    elif entry.size:
        raise Fault(Code.INVALID, f"{path}: a directory has no size")
    if entry.size < 0:
        raise Fault(Code.INVALID, f"{path}: a file's size is not negative")
