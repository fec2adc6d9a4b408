"""Volumes: made, found, listed, read, changed; each change is one new version."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable

from intermodal.contents import SPARED, Contents
from intermodal.server.services.sharing import Sharing
from intermodal.server.services.volume_names import VolumeNames
from intermodal.server.services.volume_paths import clean, join
from intermodal.server.store import volume_bulk
from intermodal.server.store.volume_edit import Staged, VolumeEdit
from intermodal.server.store.volumes import VolumeStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry, VolumeVersion

CHUNK = 1 << 20  # bytes
SWEEP_SECONDS = 600.0
COLLECT_EACH = 6  # sweeps: it looks at all files of all volumes
MAX_LINKS = 40  # symbolic links on the way to a file
log = logging.getLogger("intermodal.volumes")


class Volumes:
    def __init__(self, store: VolumeStore, names: VolumeNames, objects: Contents) -> None:
        self.objects = objects
        self.names = names
        self._store = store
        self._contents = Sharing()  # nothing is collected between its check and its use

    # -- reading
    async def entry(self, volume_id: str, path: str) -> Entry:
        """What is at a path; links to directories on the way are followed. Faults: not-found, invalid."""
        cleaned = wanted = clean(path)
        for _ in range(MAX_LINKS):
            if not cleaned:
                await self.names.get(volume_id)
                return Entry("", DIRECTORY, 0o755)
            found = await self._store.entry(volume_id, cleaned)
            if found is not None:
                return found
            link, rest = await self._link_above(volume_id, cleaned)
            if link is None:
                name = (await self.names.get(volume_id)).name or volume_id
                raise Fault(Code.NOT_FOUND, f"No such file or directory in volume {name!r}: {wanted!r}")
            cleaned = join(self._target(link), rest)
        raise Fault(Code.INVALID, f"{wanted!r}: too many symbolic links")

    async def entries(self, volume_id: str, path: str, recursive: bool) -> list[Entry]:
        """A directory's entries; that of a file, or of a link unless the path ends with a slash. Their paths begin
        as the one that was asked for, where it leads over links too. Faults: not-found, invalid."""
        found = await (self._follow if path.endswith("/") else self.entry)(volume_id, path)
        asked = clean(path)
        entries = [found]
        if found.kind == DIRECTORY:
            entries = await self._store.children(volume_id, found.path, recursive)
        if found.path == asked:
            return entries
        if found.kind != DIRECTORY:
            return [found._replace(path=asked)]
        return [entry._replace(path=join(asked, entry.path[len(found.path) :].lstrip("/"))) for entry in entries]

    async def read(self, volume_id: str, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        """A file's content from there on, in chunks. Faults: not-found, invalid."""
        entry = await self._follow(volume_id, path)
        if entry.kind == DIRECTORY:
            raise Fault(Code.INVALID, f"{entry.path or '/'!r} is a directory: only files can be read")
        try:
            file = open(self.objects.path(entry.content), "rb", buffering=0)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise Fault(Code.INTERNAL, f"the content of {entry.path!r} is missing from the object store") from None
        with file:
            file.seek(max(0, offset))
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk

    async def _follow(self, volume_id: str, path: str) -> Entry:
        """What is at a path, all symbolic links inside the volume followed. Faults: not-found, invalid."""
        entry = await self.entry(volume_id, path)
        for _ in range(MAX_LINKS):
            if entry.kind != SYMLINK:
                return entry
            entry = await self.entry(volume_id, self._target(entry))
        raise Fault(Code.INVALID, f"{path!r}: too many symbolic links")

    async def _link_above(self, volume_id: str, path: str) -> tuple[Entry | None, str]:
        """The first part of a path that is a link, and what follows it."""
        parts = path.split("/")
        for size in range(1, len(parts)):
            entry = await self._store.entry(volume_id, "/".join(parts[:size]))
            if entry is not None and entry.kind == SYMLINK:
                return entry, "/".join(parts[size:])
        return None, ""

    @staticmethod
    def _target(link: Entry) -> str:
        """Where a link leads, inside the volume. Fault: invalid where that is outside."""
        parts = [] if link.content.startswith("/") else link.path.split("/")[:-1]
        if link.content.startswith("/"):
            raise Fault(
                Code.INVALID, f"{link.path!r} is a link to {link.content!r}: an absolute path means something in a "
                "container only",
            )  # fmt: skip
        for part in link.content.split("/"):
            if part == "..":
                if not parts:
                    raise Fault(Code.INVALID, f"{link.path!r} is a link to {link.content!r}, outside of the volume")
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    # -- changing
    async def upload(self, volume_id: str, entries: list[Entry], force: bool, token: str = "") -> int:
        """Add these, as one version. Faults: conflict, not-found (a content), exhausted."""
        await self.names.get(volume_id)
        by_path: dict[str, Entry] = {}
        for entry in entries:
            other = by_path.get(entry.path)
            if other is not None and (other.kind, other.content) != (entry.kind, entry.content):
                raise Fault(Code.CONFLICT, f"two different files of one upload want the path {entry.path!r}")
            by_path[entry.path] = entry
        ordered = sorted(by_path.values())

        async with self._store.staged(ordered) as staged:

            def work(edit: VolumeEdit) -> None:
                for entry in volume_bulk.put_all(edit, staged, force) if isinstance(staged, Staged) else staged:
                    if not _merges(edit, entry, force):
                        edit.put(entry)

            return await self._edit(volume_id, "upload", ordered, work, token)

    async def commit(self, volume_id: str, changes: list[Entry]) -> int:
        """What a container has changed, as one version; the newest one now. Faults: not-found, exhausted."""
        async with contextlib.AsyncExitStack() as stack:
            groups: list[list[Entry] | Staged] = []
            for group in volume_bulk.groups(changes):
                taken_away = group[0].kind in (REMOVED, CLEARED)
                groups.append(group if taken_away else await stack.enter_async_context(self._store.staged(group)))
            return await self._edit(volume_id, "commit", changes, lambda edit: edit.apply_groups(groups))

    async def remove(self, volume_id: str, path: str, recursive: bool) -> None:
        """Faults: not-found; invalid for a directory without `recursive`."""
        entry = await self.entry(volume_id, path)
        if entry.kind == DIRECTORY and not recursive:
            raise Fault(
                Code.INVALID, f"{entry.path or '/'!r} is a directory: use recursive=True (`rm -r`) to remove it"
            )

        def work(edit: VolumeEdit) -> None:
            if entry.path:
                edit.remove(entry.path)
            else:
                edit.clear("")

        await self._edit(volume_id, "remove", [], work)

    async def copy(self, volume_id: str, sources: list[str], target: str, recursive: bool) -> None:
        """As `cp`. Faults: not-found, invalid."""
        if not sources:
            raise Fault(Code.INVALID, "copying needs a source")
        found = [(await self._follow(volume_id, source), clean(source).rpartition("/")[2]) for source in sources]
        place, into = await self._place(volume_id, target), target.endswith("/")

        def work(edit: VolumeEdit) -> None:
            self._copy(edit, [(entry.path, name) for entry, name in found], place, into, recursive)

        await self.names.get(volume_id)
        await self._edit(volume_id, "copy", [], work)

    async def _place(self, volume_id: str, target: str) -> str:
        """Where something written to a path comes to be: links are followed, as far as there is something."""
        try:
            return (await self._follow(volume_id, target)).path
        except Fault as fault:
            if fault.code != Code.NOT_FOUND:
                raise
        parent, _, name = clean(target).rpartition("/")
        try:
            return join((await self._follow(volume_id, parent)).path, name)
        except Fault as fault:
            if fault.code != Code.NOT_FOUND:
                raise
            return clean(target)

    @staticmethod
    def _copy(edit: VolumeEdit, sources: list[tuple[str, str]], target: str, into: bool, recursive: bool) -> None:
        """`sources`: paths, and the names of their copies in a directory."""
        there = edit.get(target)
        is_directory = there is not None and there.kind == DIRECTORY
        if (len(sources) > 1 or into) and not is_directory:
            raise Fault(Code.INVALID, f"the target {target!r} is not a directory")
        above = edit.get(target.rpartition("/")[0])
        if above is None or above.kind != DIRECTORY:
            raise Fault(Code.NOT_FOUND, f"there is no directory {target.rpartition('/')[0]!r} to copy into")
        for source, name in sources:
            entry = edit.get(source)
            if entry is None:
                raise Fault(Code.NOT_FOUND, f"No such file or directory: {source!r}")
            if entry.kind == DIRECTORY and not recursive:
                raise Fault(Code.INVALID, f"{source or '/'!r} is a directory: only files can be copied")
            place = join(target, name) if is_directory else target
            if place == source:
                raise Fault(Code.INVALID, f"{source!r} and the target are the same file")
            if entry.kind == DIRECTORY and (place + "/").startswith(source + "/"):
                raise Fault(Code.INVALID, f"the directory {source!r} cannot be copied into itself")
            at_place = edit.get(place)
            if at_place is not None and (at_place.kind == DIRECTORY) != (entry.kind == DIRECTORY):
                raise Fault(Code.INVALID, f"{place!r} is there already, and is no {_word(entry.kind)}")
            copied = edit.below(source) if entry.kind == DIRECTORY else []
            edit.put(entry._replace(path=place))
            for one in sorted(copied):
                edit.put(one._replace(path=place + one.path[len(source) :]))

    async def restore(self, volume_id: str, version: int) -> int:
        """Make an older version the newest again. Fault: not-found."""
        row = await self.names.get(volume_id)
        async with self._contents.together():
            try:
                return await self._store.restore(volume_id, version)
            except LookupError as error:
                raise Fault(
                    Code.NOT_FOUND,
                    f"version {version} of volume {row.name or volume_id!r} is not kept: those from {error} are",
                ) from None

    async def versions(self, volume_id: str) -> list[VolumeVersion]:
        await self.names.get(volume_id)
        return await self._store.versions(volume_id)

    async def changed(self, volume_id: str, since: int) -> tuple[int, int, list[Entry]]:
        """See VolumeStore.changed. Fault: not-found."""
        await self.names.get(volume_id)
        return await self._store.changed(volume_id, since)

    async def _edit(
        self, volume_id: str, reason: str, entries: list[Entry], work: Callable[[VolumeEdit], None], token: str = ""
    ) -> int:
        digests = [entry.content for entry in entries if entry.kind == FILE]
        async with self._contents.together():
            if digests:
                await asyncio.to_thread(self._secure, entries, digests)
            return await self._store.edit(volume_id, reason, work, token)

    def _secure(self, entries: list[Entry], digests: list[str]) -> None:
        missing = set(self.objects.missing(digests))
        if missing:
            path = next(entry.path for entry in entries if entry.content in missing)
            raise Fault(
                Code.NOT_FOUND, f"{len(missing)} files have to be sent again, the first is {path!r}: please try again"
            )
        self.objects.make_durable(digests)

    # -- collecting
    async def keep_clean(self, environments: Callable[[], list[str]]) -> None:
        """Collect now and then until cancelled."""
        await asyncio.to_thread(self.objects.prepare)
        for number in itertools.count():
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                gone = await self.names.sweep(environments())
                freed = await self.collect() if number % COLLECT_EACH == 0 else 0
                if gone or freed:
                    log.info("%d volumes nobody kept are gone; %d bytes of old contents were deleted", gone, freed)
            except Exception:
                log.exception("volumes could not be cleaned; it will be tried again")

    async def mend(self, since: float) -> int:
        """After a loss of power, before anything is served: delete contents since then that no version names."""
        if not await asyncio.to_thread(self.objects.mend, since, None):
            return 0
        return await asyncio.to_thread(self.objects.mend, since, await self._store.contents())

    async def collect(self, older_than: float | None = None) -> int:
        """Forget versions beyond what is kept, and delete contents that no version needs; bytes freed."""
        await self._store.forget_history(time.time())
        await asyncio.to_thread(self.objects.begun.collect, time.time() - SPARED)
        async with self._contents.alone():
            used = await self._store.contents()
            unused = await asyncio.to_thread(lambda: set(self.objects.names()) - used)
            if not unused:
                return 0
            limit = time.time() - SPARED if older_than is None else older_than
            return await asyncio.to_thread(self.objects.collect, unused, limit)


def _merges(edit: VolumeEdit, entry: Entry, force: bool) -> bool:
    """Whether an uploaded entry is a directory that is there. Fault(conflict) where something is in its way."""
    there = edit.get(entry.path)
    if there is None:
        above = entry.path.rpartition("/")[0]
        while above and (found := edit.get(above)) is None:
            above = above.rpartition("/")[0]
        if above and found is not None and found.kind != DIRECTORY:
            raise Fault(Code.CONFLICT, f"{above!r} is a file in the volume, so nothing can be put below it")
        return False
    if there.kind == DIRECTORY:
        if entry.kind != DIRECTORY:
            raise Fault(Code.CONFLICT, f"{entry.path!r} is a directory in the volume: a file cannot take its place")
        return True
    if entry.kind == DIRECTORY:
        raise Fault(Code.CONFLICT, f"{entry.path!r} is a file in the volume: a directory cannot take its place")
    if not force:
        raise Fault(
            Code.CONFLICT, f"{entry.path!r} is in the volume already: use force=True (`--force`) to overwrite it"
        )
    return False


def _word(kind: int) -> str:
    return {FILE: "file", DIRECTORY: "directory", SYMLINK: "symbolic link"}[kind]
