"""Sets of local files: the server keeps which files, and the file store their content."""

from __future__ import annotations

import asyncio
import itertools
import posixpath
from typing import Any

from intermodal.files import Files, check_digest
from intermodal.server.ids import canonical, content_id
from intermodal.server.store.images import ImageStore
from modal._protocol.errors import Code, Fault
from modal._protocol.message import to_json
from modal._protocol.messages.file import FileEntry


class Mounts:
    def __init__(self, store: ImageStore, files: Files) -> None:
        self._store = store
        self._files = files

    async def put(self, entries: list[FileEntry]) -> str:
        """The id of this set of files. Faults: invalid (a path), not-found (a file that was not uploaded)."""
        for entry in entries:
            check_entry(entry)
        entries.sort(key=lambda entry: entry.path)
        for one, other in itertools.pairwise(entries):
            if one.path == other.path:
                raise Fault(Code.INVALID, f"two files want the path {one.path}")
        missing = await asyncio.to_thread(self._files.missing_now, [entry.hash for entry in entries if not entry.link])
        if missing:
            path = next(entry.path for entry in entries if entry.hash == missing[0])
            raise Fault(
                Code.NOT_FOUND, f"{len(missing)} files were not uploaded yet, the first is {path} ({missing[0]})"
            )
        mount_id = content_id("mo", canonical([to_json(entry) for entry in entries]))
        await self._store.put_mount(mount_id, entries)
        return mount_id

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
    check_digest(entry.hash)
    if entry.size < 0:
        raise Fault(Code.INVALID, f"{path}: a file's size is not negative")
