"""Uploads to a volume: files are hashed, what the server lacks is sent, and all of it becomes one new version.

On the server's own machine contents are copied straight into its object store; from elsewhere they travel in batches,
several at a time. What was sent stays there, so an upload that was interrupted goes on where it ended.
"""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

from modal import _sync
from modal._hashing import hashes
from modal._mounts import Stamp, stamp_of
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.volume import (
    Entry,
    ObjectBegun,
    ObjectPut,
    ObjectsMissing,
    ObjectsPut,
    VolumeEntries,
    VolumeVersions,
    portions,
)
from modal._protocol.messages.volume import VolumeUpload as VolumeUploadRequest
from modal._protocol.messages.wire import Done
from modal._protocol.objects import CHUNK, has_object, place, place_bytes
from modal._upload_sources import Advance, Progress, Source, Sources, content_of, open_file, remote_place
from modal.exception import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from modal._client import Client

PARALLEL = 8  # threads that hash and send
BATCH_BYTES = 4 << 20  # of small files in one message
BATCH_FILES = 1000
SMALL = 1 << 20  # bytes; larger files travel alone
RESTARTS = 3  # of one upload from its beginning, where what the server had turned out to be something else
ROUNDS = 4  # of one transfer, where files are written to meanwhile
ASK_FILES = 5000  # hashes in one question


class VolumeUpload:
    """What `Volume.batch_upload()` gives: says what shall be uploaded; the block's end does it."""

    def __init__(self, force: bool) -> None:
        self._force = force
        self._sources = Sources()
        self._progress: Optional[Progress] = None
        self._over = False

    def put_file(
        self,
        local_file: Union[Path, str, BinaryIO],
        remote_path: Union[PurePosixPath, str],
        mode: Optional[int] = None,
    ) -> None:
        """Upload a file from a local file or file-like object. `mode`: its permissions, else those of the local file.

        A remote path that ends with `/` is a directory, into which the file goes under its own name. Raises
        InvalidError, FileNotFoundError.
        """
        self._check_open()
        remote = remote_place(remote_path)
        if mode is not None and (isinstance(mode, bool) or not isinstance(mode, int)):
            raise InvalidError(f"put_file: mode must be a number such as 0o644, not {mode!r}.")
        if isinstance(local_file, (str, os.PathLike)):
            local = os.path.abspath(os.path.expanduser(os.fspath(local_file)))
            if os.path.isdir(local):
                raise InvalidError(f"put_file: {local} is a directory. Use put_directory.")
            if str(remote_path).endswith("/"):
                remote = f"{remote}/{os.path.basename(local)}".lstrip("/")
            if not remote:
                raise InvalidError(
                    f"put_file: {str(remote_path)!r} has no name for the file. Use '/{os.path.basename(local)}'."
                )
            self._sources.add_file(local, remote, mode)
            return
        if not hasattr(local_file, "read"):
            raise InvalidError(f"put_file: a path or a binary file is needed, not {type(local_file).__name__}.")
        content: Any = local_file.read()
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise InvalidError("put_file: the file object must be binary (opened with 'rb', or an io.BytesIO).")
        if not remote or str(remote_path).endswith("/"):
            raise InvalidError(f"put_file: a file object needs a path with a file's name, not {str(remote_path)!r}.")
        data = bytes(content)
        permissions = 0o644 if mode is None else mode & 0o7777
        self._sources.files.append(Source(remote, "", data, permissions, time.time_ns(), len(data)))

    def put_directory(
        self,
        local_path: Union[Path, str],
        remote_path: Union[PurePosixPath, str],
        recursive: bool = True,
    ) -> None:
        """Upload all files of a local directory, and (unless `recursive` is False) those below it, empty ones too.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        Raises InvalidError, FileNotFoundError.
        """
        self._check_open()
        local = os.path.abspath(os.path.expanduser(os.fspath(local_path)))
        if not os.path.exists(local):
            raise FileNotFoundError(f"put_directory: there is no directory {local}.")
        if not os.path.isdir(local):
            raise InvalidError(f"put_directory: {local} is a file. Use put_file.")
        self._sources.add_directory(local, remote_place(remote_path), recursive)

    def totals(self) -> Tuple[int, int]:
        """How many files, and how many bytes."""
        return self._sources.totals()

    def left_out(self) -> List[str]:
        """Local paths of what is neither file nor directory, and was met in a directory."""
        return self._sources.left_out

    def _check_open(self) -> None:
        if self._over:
            raise InvalidError("This batch was uploaded when its `with` block ended: begin another batch_upload().")

    async def _send(self, client: Client, volume_id: str) -> None:
        self._over = True
        if not self._sources.files and not self._sources.others:
            return
        transfer = _Transfer(client, self._sources.files, self._progress)
        await _sync.call_blocking(self._send_blocking, client, volume_id, transfer)

    def _send_blocking(self, client: Client, volume_id: str, transfer: _Transfer) -> None:
        entries = transfer.run()
        request = VolumeUploadRequest(volume_id, self._force, os.urandom(12).hex())
        try:
            _sync.run(send_entries(client, request, entries + self._sources.others, VolumeVersions))
        except NotFoundError as error:
            if "sent again" not in str(error):
                raise
            entries = transfer.run()  # the server has tidied up in between
            _sync.run(send_entries(client, request, entries + self._sources.others, VolumeVersions))


async def send_entries(client: Client, request: Any, entries: List[Entry], expect: Any) -> Any:
    """Open an exchange with `request`, send the entries, and return the answer. Sent again when the server was lost."""
    from modal._endpoint import CALL_PATIENCE, Patience, error_of
    from modal._protocol.errors import Fault, ProtocolError, WireError

    waiting: Optional[Patience] = None
    parts = portions(entries)
    while True:
        exchange = await client.open(request, patience=CALL_PATIENCE, waiting=waiting)
        clean = False
        try:
            for part in parts:
                await exchange.send(VolumeEntries(part))
            exchange.end()
            while await exchange.receive() is not None:
                continue
            clean = True
            if not isinstance(exchange.response, expect):
                raise error_of("internal", f"{type(request).__name__} was not answered")
            return exchange.response
        except Fault as fault:
            clean = True
            raise error_of(fault.code, fault.text) from None
        except ProtocolError as error:
            raise error_of("internal", f"{type(request).__name__}: {error}") from None
        except WireError as error:
            waiting = waiting or Patience(client._endpoint, CALL_PATIENCE)
            await client._wait(waiting, error)
        finally:
            exchange.close(reuse=clean)


async def send_object(
    client: Client,
    digest: str,
    size: int,
    local: str,
    content: bytes,
    token: str,
    told: Optional[Callable[[int], None]] = None,
) -> None:
    """One large content, of a local file or of memory. After an interruption it goes on where that came.

    `told(bytes)` is told how much has been sent.
    """
    from modal._endpoint import CALL_PATIENCE, Patience, error_of
    from modal._protocol.errors import Fault, ProtocolError, WireError

    waiting: Optional[Patience] = None
    restarts = 0
    while True:
        begin = await _begun(client, digest, token)
        exchange = await client.open(ObjectPut(digest, size, begin, token), patience=CALL_PATIENCE, waiting=waiting)
        clean = False
        try:
            with open(local, "rb") if local else io.BytesIO(content) as file:
                file.seek(begin)
                while True:
                    chunk = await _sync.call_blocking(file.read, CHUNK)
                    if not chunk:
                        break
                    await exchange.send(BlobChunk(chunk))
                    if told is not None:
                        told(file.tell())
            exchange.end()
            while await exchange.receive() is not None:
                continue
            clean = True
            if not isinstance(exchange.response, Done):
                raise error_of("internal", "ObjectPut was not answered")
            return
        except Fault as fault:
            clean = True
            # What was there was not its beginning, after a crash of the server's machine say: it is gone now.
            restarts += 1
            if restarts > RESTARTS or not (begin or fault.code == "conflict"):
                raise error_of(fault.code, fault.text) from None
        except ProtocolError as error:
            raise error_of("internal", f"ObjectPut: {error}") from None
        except WireError as error:
            waiting = waiting or Patience(client._endpoint, CALL_PATIENCE)
            await client._wait(waiting, error)
        finally:
            exchange.close(reuse=clean)


async def _begun(client: Client, digest: str, token: str) -> int:
    try:
        return (await client.request(ObjectBegun(digest, token), ObjectBegun)).size
    except InvalidError:  # a server of an earlier version
        return 0


Wanted = Tuple[str, Source, Optional[Stamp]]  # a hash, a file that has it, and how that looked


class _Transfer:
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
                _sync.run(send_object(
                    self._client, digest, size, source.local, source.content, self._token,
                    lambda position: self._advance.at(source.remote, position),
                ))  # fmt: skip
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


def in_threads(work: Callable[[Any], Any], items: List[Any], advance: Optional[Advance] = None) -> List[Any]:
    """The results in order; the first failure ends it, and what is under way where `advance` is told of it."""
    if not items:
        return []
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(PARALLEL, len(items)), "modal-volume") as pool:
        pending = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in pending]
        except BaseException:
            for one in pending:
                one.cancel()
            if advance is not None:
                advance.stop()
            raise


__all__ = ["VolumeUpload", "send_entries"]
