"""How an upload's files get to the server: they are hashed, and what the server lacks is sent.

On the server's own machine contents are copied straight into its object store; from elsewhere they travel in batches,
several at a time. What was sent stays there, so an upload that was interrupted goes on where it ended.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional, Tuple

from modal import _sync
from modal._endpoint import CALL_PATIENCE
from modal._hashing import hashes
from modal._mounts import Stamp, stamp_of
from modal._protocol.messages.volume import (
    FILE,
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
from modal._transfer import Progress, Report, in_threads
from modal._upload import deliver, send_file
from modal.exception import AlreadyExistsError, InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._exchange import Exchange

BATCH_BYTES = 4 << 20  # of small files in one message
BATCH_FILES = 1000
SMALL = 1 << 20  # bytes; larger files travel alone
RESTARTS = 3  # of one upload from its beginning, where what the server had turned out to be something else
ASK_FILES = 5000  # hashes in one question


class Source(NamedTuple):
    """A file to upload."""

    remote: str
    local: str  # path of a file, "" for what is in memory
    content: bytes
    mode: int
    mtime: int  # nanoseconds
    size: int


class Transfer:
    """Gets the contents of files into the server's object store. Blocking, with threads of its own."""

    def __init__(self, client: Client, sources: List[Source], report: Optional[Report]) -> None:
        self._client = client
        self._sources = sources
        self._progress = Progress(report, [source.size for source in sources])
        self._token = os.urandom(12).hex()

    def run(self) -> List[Entry]:
        """All files as entries, their contents with the server. Raises modal.exception's errors, OSError."""
        self._progress.reset()
        directory = _sync.run(self._client.request(ObjectsMissing([]), ObjectsMissing)).directory
        try:
            if directory and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
                return in_threads(lambda source: self._place(source, directory), self._sources)
            return self._upload()
        finally:
            hashes.save()

    # -- on the same machine
    def _place(self, source: Source, directory: str) -> Entry:
        if not source.local:
            digest, size = place_bytes(source.content, directory, source.mode, source.mtime), source.size
        else:
            digest, size = self._place_file(source, directory)
        self._progress.add(size)
        return Entry(source.remote, FILE, source.mode, 0, 0, source.mtime, size, digest)

    def _place_file(self, source: Source, directory: str) -> Tuple[str, int]:
        stamp: Optional[Stamp] = None
        if source.size >= CHUNK:
            stamp = stamp_of(source.local)
            known = hashes.known(source.local, stamp) if stamp is not None else ""
            if known and has_object(directory, known):
                return known, source.size
        fd = _open(source.local)
        try:
            digest, size = place(fd, directory, source.mode, source.mtime)
        finally:
            os.close(fd)
        if stamp is not None:
            hashes.learn(source.local, stamp, digest)
        return digest, size

    # -- from elsewhere
    def _upload(self) -> List[Entry]:
        entries: List[Entry] = in_threads(self._hash, self._sources)
        by_digest: Dict[str, Source] = {}
        for source, entry in zip(self._sources, entries):
            by_digest.setdefault(entry.content, source)
        missing = self._missing(list(by_digest))
        for source, entry in zip(self._sources, entries):
            if entry.content not in missing:
                self._progress.add(source.size)
        wanted = [(digest, by_digest[digest]) for digest in missing]
        in_threads(self._put, list(_batches(wanted)))
        return entries

    def _hash(self, source: Source) -> Entry:
        import hashlib

        if source.local:
            digest, stamp = hashes.get(source.local)
            size = stamp.size
        else:
            digest, size = hashlib.sha256(source.content).hexdigest(), source.size
        return Entry(source.remote, FILE, source.mode, 0, 0, source.mtime, size, digest)

    def _missing(self, digests: List[str]) -> Dict[str, None]:
        questions = [ObjectsMissing(digests[at : at + ASK_FILES]) for at in range(0, len(digests), ASK_FILES)]
        answers = [_sync.run(self._client.request(question, ObjectsMissing)) for question in questions]
        return dict.fromkeys(digest for answer in answers for digest in answer.hashes)

    def _put(self, batch: List[Tuple[str, Source]]) -> None:
        try:
            if len(batch) == 1 and batch[0][1].size > SMALL:
                digest, source = batch[0]
                _sync.run(_send_object(self._client, digest, source, self._token))
            else:
                contents = [_content(source) for _digest, source in batch]
                _sync.run(self._client.request(ObjectsPut([digest for digest, _ in batch], contents), Done))
        except InvalidError as error:
            raise InvalidError(f"{batch[0][1].local or batch[0][1].remote}: {error}") from None
        for _digest, source in batch:
            self._progress.add(source.size)


def _batches(wanted: List[Tuple[str, Source]]) -> Iterator[List[Tuple[str, Source]]]:
    batch: List[Tuple[str, Source]] = []
    size = 0
    for digest, source in wanted:
        if source.size > SMALL:
            yield [(digest, source)]
            continue
        if batch and (size + source.size > BATCH_BYTES or len(batch) >= BATCH_FILES):
            yield batch
            batch, size = [], 0
        batch.append((digest, source))
        size += source.size
    if batch:
        yield batch


async def send_entries(client: Client, request: VolumeUpload, entries: List[Entry]) -> VolumeVersions:
    """The trees' part of an upload, once all contents are with the server. Raises modal.exception's errors."""

    async def send(exchange: Exchange) -> None:
        for part in portions(entries):
            await exchange.send(VolumeEntries(part))

    return await deliver(client, request, send, VolumeVersions, patience=CALL_PATIENCE)


async def _send_object(client: Client, digest: str, source: Source, token: str) -> None:
    """One large content. After an interruption it goes on where that came."""
    request = ObjectPut(digest, source.size, 0, token)

    async def begin() -> ObjectPut:
        request.begin = await _begun(client, digest, token)
        return request

    async def send(exchange: Exchange) -> None:
        with open(source.local, "rb") if source.local else io.BytesIO(source.content) as file:
            file.seek(request.begin)
            await send_file(exchange, file)

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


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}.") from None


def _content(source: Source) -> bytes:
    if not source.local:
        return source.content
    fd = _open(source.local)
    with os.fdopen(fd, "rb") as file:
        return file.read()
