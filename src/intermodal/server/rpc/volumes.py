"""Volumes and network file systems on the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from intermodal.files import FileWriter
from intermodal.server.principal import Role, principal_of
from intermodal.server.rpc.uploads import chunks, put_all, take
from intermodal.server.services.environments import Environments
from intermodal.server.services.network_files import NetworkFiles
from intermodal.server.services.volume_names import VolumeNames
from intermodal.server.services.volume_paths import check_entry
from intermodal.server.services.volumes import Volumes
from intermodal.server.store.environments import Environment
from intermodal.server.store.volumes import VolumeRow
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.volume import (
    FILE,
    NETWORK_FILE_SYSTEM,
    Entry,
    FileContents,
    NetworkFilePut,
    NetworkFilesPut,
    ObjectBegun,
    ObjectPut,
    ObjectsMissing,
    ObjectsPut,
    VolumeChanges,
    VolumeCheckout,
    VolumeDelete,
    VolumeEdit,
    VolumeEntries,
    VolumeGet,
    VolumeHistory,
    VolumeInfo,
    VolumeList,
    VolumeLs,
    VolumeRead,
    VolumeReadMany,
    VolumeRename,
    VolumeSync,
    VolumeUpload,
    VolumeVersion,
    VolumeVersions,
    portions,
)
from modal._protocol.messages.volume import (
    Volumes as VolumesKnown,
)
from modal._protocol.messages.wire import Done

MAX_READ = 16 << 20  # bytes of several files in one answer
MAX_ENTRIES = 1_000_000  # of one upload or commit
SyncContainer = Callable[[str, str, str, str], Awaitable[None]]  # container id, volume id, action, a build's worker


class VolumeHandlers:
    def __init__(
        self,
        volumes: Volumes,
        names: VolumeNames,
        files: NetworkFiles,
        environments: Environments,
        sync: SyncContainer,
        changed: Callable[[str], None],
    ) -> None:
        """`changed(volume_id)` is told of every new version that does not come from a container."""
        self._volumes = volumes
        self._names = names
        self._files = files
        self._environments = environments
        self._sync = sync
        self._changed = changed

    def register(self, handlers: Handlers) -> None:
        handlers.unary(VolumeGet)(self.get)
        handlers.unary(VolumeList)(self.list)
        handlers.unary(VolumeDelete)(self.delete)
        handlers.unary(VolumeRename)(self.rename)
        handlers.unary(VolumeHistory)(self.history)
        handlers.stream(VolumeLs)(self.ls)
        handlers.stream(VolumeRead)(self.read)
        handlers.unary(VolumeReadMany)(self.read_many)
        handlers.unary(VolumeEdit)(self.edit)
        handlers.unary(ObjectsMissing)(self.missing)
        handlers.unary(ObjectsPut)(self.put_objects)
        handlers.unary(ObjectBegun)(self.begun)
        handlers.stream(ObjectPut)(self.put_object)
        handlers.stream(VolumeUpload)(self.upload)
        handlers.unary(VolumeSync)(self.sync)
        handlers.stream(VolumeChanges)(self.changes)
        handlers.stream(VolumeCheckout)(self.checkout)
        handlers.stream(NetworkFilePut)(self.put_file)
        handlers.unary(NetworkFilesPut)(self.put_files)

    # -- names
    async def get(self, connection: Connection, message: VolumeGet) -> VolumesKnown:
        if message.volume_id:
            return VolumesKnown([self._info(await self._names.keep(message.volume_id))])
        environment = self._environment(connection, message.environment)
        if message.ephemeral:
            row, made = await self._names.ephemeral(environment, message.kind, message.format), True
        else:
            row, made = await self._names.find(environment, message.kind, message.name, message.create, message.format)
        if row.kind == NETWORK_FILE_SYSTEM:
            await asyncio.to_thread(self._files.root, row.volume_id)
        return VolumesKnown([self._info(row, made)])

    async def list(self, connection: Connection, message: VolumeList) -> VolumesKnown:
        rows = await self._names.named(self._environment(connection, message.environment), message.kind)
        return VolumesKnown([self._info(row) for row in rows])

    async def delete(self, connection: Connection, message: VolumeDelete) -> Done:
        if message.volume_id:
            row = await self._names.get(message.volume_id)
        else:
            environment = self._environment(connection, message.environment)
            row, _made = await self._names.find(environment, message.kind, message.name, False)
        await self._names.delete(row)
        return Done()

    async def rename(self, connection: Connection, message: VolumeRename) -> Done:
        environment = self._environment(connection, message.environment)
        await self._names.rename(environment, message.kind, message.old_name, message.new_name)
        return Done()

    async def history(self, connection: Connection, message: VolumeHistory) -> VolumeVersions:
        if message.restore:
            if principal_of(connection).role == Role.CONTAINER:
                raise Fault(Code.AUTH, "a container may not restore a version of a volume")
            await self._volumes.restore(message.volume_id, message.restore)
            self._changed(message.volume_id)
        return VolumeVersions(await self._volumes.versions(message.volume_id))

    # -- files
    async def ls(self, connection: Connection, message: VolumeLs, stream: Stream) -> None:
        where = self._files if await self._is_network(message.volume_id) else self._volumes
        entries = await where.entries(message.volume_id, message.path, message.recursive)
        for part in await asyncio.to_thread(portions, entries):
            await stream.send(VolumeEntries(part))

    async def read(self, connection: Connection, message: VolumeRead, stream: Stream) -> None:
        where = self._files if await self._is_network(message.volume_id) else self._volumes
        async for chunk in where.read(message.volume_id, message.path, message.offset):
            await stream.send(BlobChunk(chunk))

    async def read_many(self, connection: Connection, message: VolumeReadMany) -> FileContents:
        where = self._files if await self._is_network(message.volume_id) else self._volumes
        contents, size = [], 0
        for path in message.paths:
            parts = []
            async for chunk in where.read(message.volume_id, path):
                parts.append(chunk)
                size += len(chunk)
                if size > MAX_READ:
                    raise Fault(Code.TOO_LARGE, f"more than {MAX_READ:,} bytes at once: read {path!r} by itself")
            contents.append(b"".join(parts))
        return FileContents(contents)

    async def edit(self, connection: Connection, message: VolumeEdit) -> Done:
        if message.action == "remove":
            where = self._files if await self._is_network(message.volume_id) else self._volumes
            for path in message.paths:
                await where.remove(message.volume_id, path, message.recursive)
        elif message.action == "copy" and not await self._is_network(message.volume_id):
            await self._volumes.copy(message.volume_id, message.paths, message.target, message.recursive)
        elif message.action == "mkdir" and await self._is_network(message.volume_id):
            for path in message.paths:
                await self._files.make_directory(message.volume_id, path)
        else:
            raise Fault(Code.INVALID, f"files cannot be changed by {message.action[:40]!r}")
        self._changed(message.volume_id)
        return Done()

    async def put_file(self, connection: Connection, message: NetworkFilePut, stream: Stream) -> Done:
        await self._check_network(message.volume_id)
        mtime = message.mtime or None
        await self._files.write(message.volume_id, message.path, message.mode, chunks(stream), mtime)
        return Done()

    async def put_files(self, connection: Connection, message: NetworkFilesPut) -> Done:
        await self._check_network(message.volume_id)
        entries = await asyncio.to_thread(_checked, message.entries, False)
        if sum(entry.kind == FILE for entry in entries) != len(message.contents):
            raise Fault(Code.INVALID, "files and contents differ in number")
        await self._files.write_all(message.volume_id, entries, message.contents)
        return Done()

    # -- uploads
    async def missing(self, connection: Connection, message: ObjectsMissing) -> ObjectsMissing:
        missing = await asyncio.to_thread(self._volumes.objects.missing, message.hashes)
        own = principal_of(connection).role == Role.OWNER
        return ObjectsMissing(missing, str(self._volumes.objects.directory) if own else "")

    async def put_objects(self, connection: Connection, message: ObjectsPut) -> Done:
        await put_all(self._volumes.objects, message.hashes, message.contents)
        return Done()

    async def put_object(self, connection: Connection, message: ObjectPut, stream: Stream) -> Done:
        objects = self._volumes.objects
        if message.token:
            resumed = objects.resumed_writer(message.hash, message.token, message.begin)
        else:
            resumed = objects.writer(message.hash)
        with contextlib.ExitStack() as stack:
            writer = await _entered(resumed, stack)
            await take(writer, stream, message.size)
        return Done()

    async def begun(self, connection: Connection, message: ObjectBegun) -> ObjectBegun:
        size = await asyncio.to_thread(self._volumes.objects.begun.size, message.hash, message.token)
        return ObjectBegun(message.hash, message.token, size)

    async def upload(self, connection: Connection, message: VolumeUpload, stream: Stream) -> VolumeVersions:
        version = await self._volumes.upload(message.volume_id, await _entries(stream), message.force, message.token)
        self._changed(message.volume_id)
        return VolumeVersions([VolumeVersion(version, 0.0)])

    # -- containers and workers
    async def sync(self, connection: Connection, message: VolumeSync) -> Done:
        principal = principal_of(connection)
        if principal.role != Role.CONTAINER:
            raise Fault(
                Code.EXECUTION,
                f"only a container that has the volume mounted can {message.action} it: call this in a function with "
                "`volumes={path: volume}`",
            )
        await self._sync(principal.container_id, message.volume_id, message.action, principal.worker_id)
        return Done()

    async def changes(self, connection: Connection, message: VolumeChanges, stream: Stream) -> VolumeVersions:
        version = await self._volumes.commit(message.volume_id, await _entries(stream))
        return VolumeVersions([VolumeVersion(version, 0.0)])

    async def checkout(self, connection: Connection, message: VolumeCheckout, stream: Stream) -> VolumeVersions:
        version, base, entries = await self._volumes.changed(message.volume_id, message.since)
        for part in await asyncio.to_thread(portions, entries):
            await stream.send(VolumeEntries(part))
        return VolumeVersions([VolumeVersion(version, 0.0)], base)

    # -- inside
    async def _is_network(self, volume_id: str) -> bool:
        """Fault: not-found."""
        return (await self._names.get(volume_id)).kind == NETWORK_FILE_SYSTEM

    async def _check_network(self, volume_id: str) -> None:
        """Fault: not-found, invalid."""
        if not await self._is_network(volume_id):
            raise Fault(Code.INVALID, f"{volume_id} is no network file system")

    def _environment(self, connection: Connection, name: str) -> Environment:
        return self._environments.resolve(name, principal_of(connection))

    def _info(self, row: VolumeRow, made: bool = False) -> VolumeInfo:
        environment = self._environments.name_of(row.environment_id)
        return VolumeInfo(
            row.volume_id, row.name, row.kind, row.created_at, environment, row.version, row.inodes, row.bytes, made
        )


async def _entered(writer: FileWriter, stack: contextlib.ExitStack) -> FileWriter:
    """Enter it in a thread, as that may have to read gigabytes; whatever happens meanwhile, it is left."""
    entering = asyncio.ensure_future(asyncio.to_thread(writer.__enter__))
    try:
        await asyncio.shield(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(lambda done: None if done.exception() else writer.__exit__(None, None, None))
        raise
    stack.push(writer)
    return writer


async def _entries(stream: Stream) -> list[Entry]:
    """All that is sent, checked. Fault: invalid."""
    found: list[Entry] = []
    async for item in stream:
        if not isinstance(item, VolumeEntries):
            raise Fault(Code.INVALID, f"{type(item).__name__} has no place among the entries of a volume")
        found += await asyncio.to_thread(_checked, item.entries)
        if len(found) > MAX_ENTRIES:
            raise Fault(Code.TOO_LARGE, f"more than {MAX_ENTRIES:,} files at once: send them in several parts")
    return found


def _checked(sent: list[Any], hashed: bool = True) -> list[Entry]:
    """As entries. `hashed`: files have the hash of their content. Fault: invalid."""
    try:
        entries = [Entry(*values) for values in sent]
        for entry in entries:
            numbers = (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size)
            if not all(type(number) is int for number in numbers) or not isinstance(entry.content, str):
                raise TypeError("a field has a wrong type")
            check_entry(entry, hashed)
    except (TypeError, AttributeError) as error:
        raise Fault(Code.INVALID, f"what was sent is no entry of a volume: {error}") from None
    return entries
