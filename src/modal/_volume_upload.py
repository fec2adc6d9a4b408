"""Uploads to a volume: files are hashed, what the server lacks is sent, and all of it becomes one new version.

On the server's own machine contents are copied straight into its object store; from elsewhere they travel in batches,
several at a time. What was sent stays there, so an upload that was interrupted goes on where it ended.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from typing import (
    TYPE_CHECKING,
    Any,
    BinaryIO,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from modal import _sync
from modal._hashing import hashes
from modal._mounts import Stamp, stamp_of
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.volume import (
    DIRECTORY,
    FILE,
    SYMLINK,
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
from modal.exception import InvalidError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from modal._client import Client

PARALLEL = 8  # threads that hash and send
BATCH_BYTES = 4 << 20  # of small files in one message
BATCH_FILES = 1000
SMALL = 1 << 20  # bytes; larger files travel alone
RESTARTS = 3  # of one upload from its beginning, where what the server had turned out to be something else
ASK_FILES = 5000  # hashes in one question

Progress = Callable[[int, int, int, int], None]  # files done, files in all, bytes done, bytes in all


class _Source(NamedTuple):
    remote: str
    local: str  # path of a file, "" for what is in memory
    content: bytes
    mode: int
    mtime: int  # nanoseconds
    size: int


class VolumeUpload:
    """What `Volume.batch_upload()` gives: says what shall be uploaded; the block's end does it."""

    def __init__(self, force: bool) -> None:
        self._force = force
        self._sources: List[_Source] = []
        self._others: List[Entry] = []  # directories and links
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
        remote = _remote(remote_path)
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
            self._add_file(local, remote, mode)
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
        self._sources.append(_Source(remote, "", data, permissions, time.time_ns(), len(data)))

    def put_directory(
        self,
        local_path: Union[Path, str],
        remote_path: Union[PurePosixPath, str],
        recursive: bool = True,
    ) -> None:
        """Upload all files of a local directory, and (unless `recursive` is False) of those below it.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        Raises InvalidError, FileNotFoundError.
        """
        self._check_open()
        local = os.path.abspath(os.path.expanduser(os.fspath(local_path)))
        if not os.path.exists(local):
            raise FileNotFoundError(f"put_directory: there is no directory {local}.")
        if not os.path.isdir(local):
            raise InvalidError(f"put_directory: {local} is a file. Use put_file.")
        remote = _remote(remote_path)
        if remote:
            self._others.append(_directory(remote, os.stat(local)))
        root = os.path.realpath(local)
        for relative, entry, target in _walk(local, root, "", recursive, frozenset((root,))):
            whole = f"{remote}/{relative}" if remote else relative
            if target is not None:
                mtime = entry.stat(follow_symlinks=False).st_mtime_ns
                self._others.append(Entry(whole, SYMLINK, 0o777, 0, 0, mtime, len(target), target))
            elif entry.is_dir():
                self._others.append(_directory(whole, entry.stat()))
            else:
                self._add_file(entry.path, whole, None)

    def _add_file(self, local: str, remote: str, mode: Optional[int]) -> None:
        try:
            status = os.stat(local)
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {local} to upload.") from None
        if not stat.S_ISREG(status.st_mode):
            raise InvalidError(f"{local} is no plain file: only files and directories can be uploaded.")
        permissions = stat.S_IMODE(status.st_mode) if mode is None else mode & 0o7777
        self._sources.append(_Source(remote, local, b"", permissions, status.st_mtime_ns, status.st_size))

    def totals(self) -> Tuple[int, int]:
        """How many files, and how many bytes."""
        return len(self._sources), sum(source.size for source in self._sources)

    def _check_open(self) -> None:
        if self._over:
            raise InvalidError("This batch was uploaded when its `with` block ended: begin another batch_upload().")

    async def _send(self, client: Client, volume_id: str) -> None:
        self._over = True
        if not self._sources and not self._others:
            return
        transfer = _Transfer(client, self._sources, self._progress)
        await _sync.call_blocking(self._send_blocking, client, volume_id, transfer)

    def _send_blocking(self, client: Client, volume_id: str, transfer: _Transfer) -> None:
        entries = transfer.run()
        request = VolumeUploadRequest(volume_id, self._force, os.urandom(12).hex())
        try:
            _sync.run(send_entries(client, request, entries + self._others, VolumeVersions))
        except NotFoundError as error:
            if "sent again" not in str(error):
                raise
            entries = transfer.run()  # the server has tidied up in between
            _sync.run(send_entries(client, request, entries + self._others, VolumeVersions))


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


async def send_object(client: Client, digest: str, size: int, local: str, content: bytes, token: str) -> None:
    """One large content, of a local file or of memory. After an interruption it goes on where that came."""
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


class _Transfer:
    """Gets the contents of files into the server's object store. Blocking, with threads of its own."""

    def __init__(self, client: Client, sources: List[_Source], progress: Optional[Progress]) -> None:
        self._client = client
        self._sources = sources
        self._progress = progress
        self._lock = threading.Lock()
        self._files = 0
        self._bytes = 0
        self._total = sum(source.size for source in sources)
        self._token = os.urandom(12).hex()

    def run(self) -> List[Entry]:
        """All files as entries, their contents with the server. Raises modal.exception's errors, OSError."""
        self._files = self._bytes = 0
        directory = _sync.run(self._client.request(ObjectsMissing([]), ObjectsMissing)).directory
        try:
            if directory and os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
                return _in_threads(lambda source: self._place(source, directory), self._sources)
            return self._upload()
        finally:
            hashes.save()

    def _done(self, size: int) -> None:
        with self._lock:
            self._files += 1
            self._bytes += size
            if self._progress is not None:
                self._progress(self._files, len(self._sources), self._bytes, self._total)

    # -- on the same machine
    def _place(self, source: _Source, directory: str) -> Entry:
        if not source.local:
            digest, size = place_bytes(source.content, directory, source.mode, source.mtime), source.size
        else:
            digest, size = self._place_file(source, directory)
        self._done(size)
        return Entry(source.remote, FILE, source.mode, 0, 0, source.mtime, size, digest)

    def _place_file(self, source: _Source, directory: str) -> Tuple[str, int]:
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
        entries: List[Entry] = _in_threads(self._hash, self._sources)
        by_digest: Dict[str, _Source] = {}
        for source, entry in zip(self._sources, entries):
            by_digest.setdefault(entry.content, source)
        missing = self._missing(list(by_digest))
        for source, entry in zip(self._sources, entries):
            if entry.content not in missing:
                self._done(source.size)
        wanted = [(digest, by_digest[digest]) for digest in missing]
        _in_threads(self._put, list(_batches(wanted)))
        return entries

    def _hash(self, source: _Source) -> Entry:
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

    def _put(self, batch: List[Tuple[str, _Source]]) -> None:
        try:
            if len(batch) == 1 and batch[0][1].size > SMALL:
                digest, source = batch[0]
                _sync.run(send_object(self._client, digest, source.size, source.local, source.content, self._token))
            else:
                contents = [_content(source) for _digest, source in batch]
                _sync.run(self._client.request(ObjectsPut([digest for digest, _ in batch], contents), Done))
        except InvalidError as error:
            raise InvalidError(f"{batch[0][1].local or batch[0][1].remote}: {error}") from None
        for _digest, source in batch:
            self._done(source.size)


def _batches(wanted: List[Tuple[str, _Source]]) -> Iterator[List[Tuple[str, _Source]]]:
    batch: List[Tuple[str, _Source]] = []
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


def _in_threads(work: Callable[[Any], Any], items: List[Any]) -> List[Any]:
    """The results in order; the first failure ends it."""
    if len(items) < 2:
        return [work(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(PARALLEL, len(items)), "modal-volume") as pool:
        pending = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in pending]
        except BaseException:
            for one in pending:
                one.cancel()
            raise


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidError(f"{path} cannot be read: {error.strerror or error}.") from None


def _content(source: _Source) -> bytes:
    if not source.local:
        return source.content
    fd = _open(source.local)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _directory(remote: str, status: os.stat_result) -> Entry:
    return Entry(remote, DIRECTORY, stat.S_IMODE(status.st_mode) | 0o700, 0, 0, status.st_mtime_ns, 0, "")


def _remote(path: Any) -> str:
    """A remote path as entries have it. Raises InvalidError."""
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidError(f"A path in a volume is a string, not {type(path).__name__}.")
    text = str(path)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise InvalidError(f"The remote path {text!r} leads out of the volume: leave out the '..'.")
    if "\0" in text:
        raise InvalidError(f"{text!r} is no path.")
    return "/".join(parts)


def _walk(
    directory: str, root: str, prefix: str, recursive: bool, above: FrozenSet[str]
) -> Iterator[Tuple[str, os.DirEntry[str], Optional[str]]]:
    """(relative path, entry, target of a link that stays one) of all that is in a directory, and below it.

    What is neither file nor directory is left out, and so is a link to a directory above itself.
    """
    try:
        found = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except PermissionError:
        raise InvalidError(f"{directory} cannot be read: no permission.") from None
    for entry in found:
        relative = prefix + entry.name
        target = _inner_link(entry.path, root) if entry.is_symlink() else None
        if target is not None:
            yield relative, entry, target
        elif entry.is_file():
            yield relative, entry, None
        elif recursive and entry.is_dir():
            here = os.path.realpath(entry.path)
            if here not in above:
                yield relative, entry, None
                yield from _walk(entry.path, root, relative + "/", recursive, above | {here})


def _inner_link(path: str, root: str) -> Optional[str]:
    """The target of a relative link that stays below `root`; of one that leads nowhere, too. None for others."""
    target = os.readlink(path)
    if not os.path.exists(path):
        return target
    leads = os.path.realpath(path)
    if os.path.isabs(target) or not (leads + "/").startswith(root + "/"):
        return None
    return target


__all__ = ["VolumeUpload", "send_entries"]
