"""How an upload's files get to the server: they are hashed, and what the server lacks is sent.

On the server's own machine contents are copied straight into its object store; from elsewhere they travel in batches,
several at a time. What was sent stays there, so an upload that was interrupted goes on where it ended.
"""

from __future__ import annotations

import io
import os
from functools import partial
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from modal import _sync
from modal._endpoint import CALL_PATIENCE
from modal._hashing import hashes
from modal._mounts import Stamp, stamp_of
from modal._protocol.messages.volume import (
    Entry,
    ObjectBegun,
    ObjectPut,
    ObjectsMissing,
    ObjectsPut,
    VolumeEntries,
    VolumeUpload,
    VolumeVersions,
    portions,
)
from modal._protocol.messages.wire import Done
from modal._protocol.objects import CHUNK, has_object, place, place_bytes
from modal._transfer import BATCH_BYTES, BATCH_FILES, SMALL, Advance, Progress, in_threads
from modal._upload import deliver, send_file
from modal._upload_sources import Source, content_of, open_file
from modal.exception import AlreadyExistsError, InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._exchange import Exchange

RESTARTS = 3  # of one upload from its beginning, where what the server had turned out to be something else
ROUNDS = 4  # of one transfer, where files are written to meanwhile
ASK_FILES = 5000  # hashes in one question

Wanted = Tuple[str, Source, Optional[Stamp]]  # a hash, a file that has it, and how that looked


class Transfer:
    """Gets the contents of files into the server's object store. Blocking, with threads of its own."""

    def __init__(self, client: Client, sources: List[Source], progress: Optional[Progress]) -> None:
        self._client = client
        self._sources = sources
        self._progress = progress
        self._advance = Advance(None, 0, 0)
        self._token = os.urandom(12).hex()

    def run(self) -> List[Entry]:
        """All files as entries, their contents with the server. Raises modal.exception's errors, OSError."""
        self._advance = Advance(self._progress, len(self._sources), sum(source.size for source in self._sources))
        directory = _sync.run(self._client.request(ObjectsMissing([]), ObjectsMissing)).directory
        try:
            if directory and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
                return in_threads(lambda source: self._place(source, directory), self._sources, self._advance)
            return self._upload()
        finally:
            hashes.save()

    # -- on the same machine
    def _place(self, source: Source, directory: str) -> Entry:
        if not source.local:
            digest, size = place_bytes(source.content, directory, source.mode, source.mtime), source.size
        else:
            digest, size = self._place_file(source, directory)
        self._advance.done(source.remote, source.size)
        return source.entry(size, digest)

    def _place_file(self, source: Source, directory: str) -> Tuple[str, int]:
        stamp: Optional[Stamp] = None
        if source.size >= CHUNK:
            stamp = stamp_of(source.local)
            known = hashes.known(source.local, stamp) if stamp is not None else ""
            if stamp is not None and known and has_object(directory, known):
                return known, stamp.size
        fd = open_file(source.local)
        try:
            told = (lambda position: self._advance.at(source.remote, position)) if source.size >= CHUNK else None
            digest, size = place(fd, directory, source.mode, source.mtime, told)
        finally:
            os.close(fd)
        if stamp is not None:
            hashes.learn(source.local, stamp, digest)
        return digest, size

    # -- from elsewhere
    def _upload(self) -> List[Entry]:
        """A file that is written to meanwhile is read again, a few times."""
        entries: Dict[int, Entry] = {}  # by their source's identity
        rest = self._sources
        for _round in range(ROUNDS):
            found: List[Tuple[Entry, Optional[Stamp]]] = in_threads(self._hash, rest, self._advance)
            entries.update((id(source), entry) for source, (entry, _stamp) in zip(rest, found))
            wanted: Dict[str, Tuple[Source, Optional[Stamp]]] = {}
            for source, (entry, stamp) in zip(rest, found):
                wanted.setdefault(entry.content, (source, stamp))
            missing = self._missing(list(wanted))
            batches = list(_batches([(digest, *wanted[digest]) for digest in missing]))
            changed = set(_flat(in_threads(self._put, batches, self._advance)))
            again = []
            for source in rest:
                if entries[id(source)].content in changed:
                    again.append(source)
                else:
                    self._advance.done(source.remote, source.size)
            if not again:
                return [entries[id(source)] for source in self._sources]
            rest = again
        raise InvalidError(
            f"{rest[0].local} was written to again and again while it was uploaded: try it again when it is whole."
        )

    def _hash(self, source: Source) -> Tuple[Entry, Optional[Stamp]]:
        import hashlib

        if not source.local:
            return source.entry(source.size, hashlib.sha256(source.content).hexdigest()), None
        try:
            digest, stamp = hashes.get(source.local, told=self._advance.go_on)
        except OSError as error:
            raise InvalidError(f"{source.local} cannot be read: {error.strerror or 'it is gone'}.") from None
        return source.entry(stamp.size, digest), stamp

    def _missing(self, digests: List[str]) -> Dict[str, None]:
        questions = [ObjectsMissing(digests[at : at + ASK_FILES]) for at in range(0, len(digests), ASK_FILES)]
        answers = [_sync.run(self._client.request(question, ObjectsMissing)) for question in questions]
        return dict.fromkeys(digest for answer in answers for digest in answer.hashes)

    def _put(self, batch: List[Wanted]) -> List[str]:
        """Send these contents; their hashes, where a file is another one by now."""
        try:
            if len(batch) == 1 and batch[0][1].size > SMALL:
                digest, source, stamp = batch[0]
                size = stamp.size if stamp is not None else source.size
                told = partial(self._advance.at, source.remote)
                _sync.run(_send_object(self._client, digest, size, source, self._token, told))
            else:
                contents = [content_of(source) for _digest, source, _stamp in batch]
                _sync.run(self._client.request(ObjectsPut([one[0] for one in batch], contents), Done))
        except InvalidError as error:
            if not any(source.local and stamp_of(source.local) != stamp for _digest, source, stamp in batch):
                raise InvalidError(f"{batch[0][1].local or batch[0][1].remote}: {error}") from None
            return [digest for digest, _source, _stamp in batch]
        if len(batch) > 1:
            for _digest, source, _stamp in batch:
                self._advance.at(source.remote, source.size)
        return []


def _flat(lists: Iterable[List[str]]) -> Iterator[str]:
    return (one for part in lists for one in part)


def _batches(wanted: List[Wanted]) -> Iterator[List[Wanted]]:
    batch: List[Wanted] = []
    size = 0
    for one in wanted:
        source = one[1]
        if source.size > SMALL:
            yield [one]
            continue
        if batch and (size + source.size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += source.size
    if batch:
        yield batch


async def send_entries(client: Client, request: VolumeUpload, entries: List[Entry]) -> VolumeVersions:
    """The tree's part of an upload, once all contents are with the server. Raises modal.exception's errors."""

    async def send(exchange: Exchange) -> None:
        for part in portions(entries):
            await exchange.send(VolumeEntries(part))

    return await deliver(client, request, send, VolumeVersions, patience=CALL_PATIENCE)


async def _send_object(
    client: Client, digest: str, size: int, source: Source, token: str, told: Callable[[int], None]
) -> None:
    """One large content. After an interruption it goes on where that came. `told` is told how much has been sent."""
    request = ObjectPut(digest, size, 0, token)

    async def begin() -> ObjectPut:
        request.begin = await _begun(client, digest, token)
        return request

    async def send(exchange: Exchange) -> None:
        with open(source.local, "rb") if source.local else io.BytesIO(source.content) as file:
            file.seek(request.begin)
            await send_file(exchange, file, told)

    restarts = 0
    while True:
        try:
            await deliver(client, await begin(), send, Done, patience=CALL_PATIENCE, again=begin)
            return
        except InvalidError as error:
            # What was there was not its beginning, after a crash of the server's machine say: it is gone now.
            restarts += 1
            if restarts > RESTARTS or not (request.begin or isinstance(error, AlreadyExistsError)):
                raise


async def _begun(client: Client, digest: str, token: str) -> int:
    try:
        return (await client.request(ObjectBegun(digest, token), ObjectBegun)).size
    except InvalidError:  # a server of an earlier version
        return 0
