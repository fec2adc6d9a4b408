"""Uploads to a network file system: small files travel in batches, large ones alone, several at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, List, Optional, Tuple

from modal import _sync
from modal._protocol.messages.volume import Entry, NetworkFilePut, NetworkFilesPut
from modal._protocol.messages.wire import Done
from modal._transfer import SMALL, Advance, Progress, batches, in_threads
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
        for entries in batches(sorted(self._sources.others), _entry_cost):
            self._ask(NetworkFilesPut(self._volume_id, [list(entry) for entry in entries], []))
        in_threads(self._put, list(batches(self._sources.files, _cost)), self._advance)

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


def _entry_cost(entry: Entry) -> Tuple[int, int]:
    return 0, 6 * (len(entry.path) + len(entry.content)) + ENTRY_BYTES


def _cost(source: Source) -> Optional[Tuple[int, int]]:
    if source.local and source.size > SMALL:
        return None
    return source.size, 6 * len(source.remote) + ENTRY_BYTES


__all__ = ["NetworkUpload"]
