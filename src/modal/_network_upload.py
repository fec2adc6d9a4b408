"""Uploads to a network file system: small files travel in batches, large ones alone, several at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Iterator, List, Optional

from modal import _sync
from modal._protocol.messages.volume import PORTION, Entry, NetworkFilePut, NetworkFilesPut
from modal._protocol.messages.wire import Done
from modal._transfer import BATCH_BYTES, BATCH_FILES, SMALL, Advance, Progress, in_threads
from modal._upload import upload
from modal._upload_sources import Source, Sources, content_of

if TYPE_CHECKING:
    from modal._client import Client

ENTRY_BYTES = 200  # of an entry in a message, beside its path


class NetworkUpload:
    """Puts sources into a network file system. Blocking."""

    def __init__(self, client: Client, volume_id: str, sources: Sources, progress: Optional[Progress]) -> None:
        self._client = client
        self._volume_id = volume_id
        self._sources = sources
        self._advance = Advance(progress, *sources.totals())

    def run(self) -> None:
        """Directories and links, then files. Raises modal.exception's errors, OSError."""
        for entries in _portions(sorted(self._sources.others)):
            self._ask(NetworkFilesPut(self._volume_id, [list(entry) for entry in entries], []))
        in_threads(self._put, list(_batches(self._sources.files)), self._advance)

    def _put(self, batch: List[Source]) -> None:
        if len(batch) == 1 and batch[0].local and batch[0].size > SMALL:
            _sync.run(self._put_large(batch[0]))
        else:
            contents = [content_of(source) for source in batch]
            entries = [list(source.entry(len(content))) for source, content in zip(batch, contents)]
            self._ask(NetworkFilesPut(self._volume_id, entries, contents))
        for source in batch:
            self._advance.done(source.remote, source.size)

    async def _put_large(self, source: Source) -> None:
        message = NetworkFilePut(self._volume_id, source.remote, source.mode & 0o777, source.mtime)
        await upload(self._client, message, source.local, Done, told=partial(self._advance.at, source.remote))

    def _ask(self, message: NetworkFilesPut) -> None:
        _sync.run(self._client.request(message, Done))


def _portions(entries: List[Entry]) -> Iterator[List[Entry]]:
    part: List[Entry] = []
    size = 0
    for entry in entries:
        cost = 6 * (len(entry.path) + len(entry.content)) + ENTRY_BYTES
        if part and (size + cost > PORTION or len(part) >= BATCH_FILES):
            yield part
            part, size = [], 0
        part.append(entry)
        size += cost
    if part:
        yield part


def _batches(sources: List[Source]) -> Iterator[List[Source]]:
    batch: List[Source] = []
    size = header = 0
    for source in sources:
        if source.local and source.size > SMALL:
            yield [source]
            continue
        cost = 6 * len(source.remote) + ENTRY_BYTES
        full = size + source.size > BATCH_BYTES or header + cost > PORTION or len(batch) >= BATCH_FILES
        if batch and full:
            yield batch
            batch, size, header = [], 0, 0
        batch.append(source)
        size += source.size
        header += cost
    if batch:
        yield batch


__all__ = ["NetworkUpload"]
