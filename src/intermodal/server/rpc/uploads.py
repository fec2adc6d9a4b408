"""Contents that clients and workers send: many small ones in one message, large ones in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from intermodal.files import FileWriter
from modal._protocol.aio import Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import BlobChunk


class Store(Protocol):
    """What keeps contents by their SHA-256."""

    def put(self, digest: str, content: bytes, /) -> object:
        """Keep one. Blocking. Fault: invalid where it has another hash, exhausted on a full disk."""


async def put_all(store: Store, digests: Sequence[str], contents: Sequence[bytes]) -> None:
    """Keep small ones. Fault: invalid, exhausted."""
    if len(digests) != len(contents):
        raise Fault(Code.INVALID, "hashes and contents differ in number")

    def put() -> None:
        for digest, content in zip(digests, contents, strict=True):
            store.put(digest, content)

    await asyncio.to_thread(put)


async def take(writer: FileWriter, stream: Stream, size: int) -> None:
    """Keep one that comes in chunks, of `size` bytes as announced. Fault: invalid, exhausted."""
    async for chunk in chunks(stream):
        if writer.size + len(chunk) > size:
            raise Fault(Code.INVALID, f"the file is longer than the {size} bytes that were announced")
        await asyncio.to_thread(writer.write, chunk)
    await asyncio.to_thread(writer.commit)


async def chunks(stream: Stream) -> AsyncIterator[bytes]:
    """What is sent, to its end. Fault: invalid."""
    async for item in stream:
        if not isinstance(item, BlobChunk):
            raise Fault(Code.INVALID, f"{type(item).__name__} has no place in an upload")
        yield item.data
