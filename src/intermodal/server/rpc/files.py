"""Local files, mounts and large values on the wire."""

from __future__ import annotations

import asyncio

from intermodal.files import Files
from intermodal.server.rpc.uploads import chunks, put_all, take
from intermodal.server.services.mounts import Mounts
from intermodal.server.services.values import CHUNK, Values
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import BlobChunk, BlobForget, BlobGet, BlobPut
from modal._protocol.messages.file import FilePut, FilesMissing, FilesPut, MountKnown, MountPut, MountsMissing
from modal._protocol.messages.wire import Done
from modal._protocol.messages.worker import FileGet, MountEntries, MountGet


class FileHandlers:
    def __init__(self, files: Files, mounts: Mounts, values: Values) -> None:
        self._files = files
        self._mounts = mounts
        self._values = values
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, handlers: Handlers) -> None:
        handlers.unary(FilesMissing)(self.missing)
        handlers.unary(FilesPut)(self.put_many)
        handlers.stream(FilePut)(self.put)
        handlers.unary(MountPut)(self.put_mount)
        handlers.unary(MountsMissing)(self.missing_mounts)
        handlers.stream(FileGet)(self.get)
        handlers.unary(MountGet)(self.get_mount)
        handlers.stream(BlobPut)(self.put_value)
        handlers.stream(BlobGet)(self.get_value)
        handlers.note(BlobForget)(self.forget_values)

    async def missing(self, connection: Connection, message: FilesMissing) -> FilesMissing:
        return FilesMissing(await asyncio.to_thread(self._files.missing, message.hashes))

    async def put_many(self, connection: Connection, message: FilesPut) -> Done:
        await put_all(self._files, message.hashes, message.contents)
        return Done()

    async def put(self, connection: Connection, message: FilePut, stream: Stream) -> Done:
        with self._files.writer(message.hash) as writer:
            await take(writer, stream, message.size)
        return Done()

    async def put_mount(self, connection: Connection, message: MountPut) -> MountKnown:
        return MountKnown(await self._mounts.put(message.entries))

    async def missing_mounts(self, connection: Connection, message: MountsMissing) -> MountsMissing:
        return MountsMissing(await self._mounts.missing(message.mount_ids))

    async def get(self, connection: Connection, message: FileGet, stream: Stream) -> None:
        try:
            with self._files.path(message.hash).open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, CHUNK):
                    await stream.send(BlobChunk(chunk))
        except FileNotFoundError:
            raise Fault(Code.NOT_FOUND, f"the file {message.hash} is not here: it must be uploaded again") from None

    async def get_mount(self, connection: Connection, message: MountGet) -> MountEntries:
        return MountEntries(message.mount_id, await self._mounts.entries(message.mount_id))

    async def put_value(self, connection: Connection, message: BlobPut, stream: Stream) -> Done:
        await self._values.put(message.blob_id, message.size, chunks(stream))
        return Done()

    async def get_value(self, connection: Connection, message: BlobGet, stream: Stream) -> None:
        async for chunk in self._values.chunks(message.blob_id):
            await stream.send(BlobChunk(chunk))

    def forget_values(self, connection: Connection, message: BlobForget) -> None:
        self._values.forget_soon(message.blob_ids)
