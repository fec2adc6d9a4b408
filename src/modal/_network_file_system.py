"""Network file systems: a directory that all containers see at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, AsyncIterator, BinaryIO, Callable, List, Optional, Type, Union

from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._sync import call_blocking, synchronized, synchronized_context_classmethod
from modal._volume import _Stored, check_path
from modal.exception import InvalidError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from modal._client import Client
    from modal._transfer import Progress
    from modal._upload_sources import Sources
    from modal.volume import FileEntry

SPOOLED_FROM = 16 << 20  # bytes


class NetworkFileSystem(_Stored):
    """A shared, writable file system accessible by one or more Modal functions. Superseded by `modal.Volume`.

    What one container writes is seen by all others at once, without commit or reload. Methods that are given a path in
    it raise FileNotFoundError (a NotFoundError too) where nothing is there; all of them raise NotFoundError where there
    is no network file system of this name. See
    [the reference](https://modal.com/docs/reference/modal.NetworkFileSystem).

    ```python
    nfs = modal.NetworkFileSystem.from_name("my-nfs", create_if_missing=True)

    @app.function(network_file_systems={"/root/foo": nfs})
    def f():
        pass
    ```
    """

    _kind = "network file system"

    @classmethod
    def _wire_kind(cls) -> str:
        from modal._protocol.messages.volume import NETWORK_FILE_SYSTEM

        return NETWORK_FILE_SYSTEM

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> NetworkFileSystem:
        """Reference a NetworkFileSystem by its name, creating if necessary, when it is first used.

        Raises InvalidError for a name that none can have.
        """
        return NetworkFileSystem._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @synchronized_context_classmethod
    async def ephemeral(
        cls: Type[NetworkFileSystem],
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AsyncIterator[NetworkFileSystem]:
        """Creates a new ephemeral network filesystem within a context manager:

        ```python
        with modal.NetworkFileSystem.ephemeral() as nfs:
            assert nfs.listdir("/") == []
        ```
        """
        async for made in cls._new_ephemeral(client, environment_name, 0, _heartbeat_sleep):
            yield made

    @synchronized
    @staticmethod
    async def delete(name: str, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a network file system by name, with all that is in it. Raises NotFoundError."""
        await NetworkFileSystem._delete(name, client, environment_name)

    @synchronized
    async def write_file(self, remote_path: str, fp: BinaryIO, progress_cb: Optional[Callable[..., Any]] = None) -> int:
        """Write from a file object to a path on the network file system, atomically. The number of bytes.

        Will create any needed parent directories automatically.

        If remote_path ends with `/` it's assumed to be a directory and the file will be uploaded with its current
        name to that directory.
        """
        check_path(remote_path)
        if not hasattr(fp, "read"):
            raise InvalidError(
                f"write_file: a file object is needed, not {type(fp).__name__}. For a local path use add_local_file."
            )
        if remote_path.endswith("/"):
            name = getattr(fp, "name", None)
            if not isinstance(name, str) or not os.path.basename(name):
                raise InvalidError(f"write_file: this file object has no name: give a path below {remote_path!r}.")
            remote_path += os.path.basename(name)
        from modal._protocol.messages.volume import NetworkFilePut
        from modal._protocol.messages.wire import Done
        from modal._upload import upload

        client = await self._ready()
        with _Spooled() as spooled:
            await call_blocking(spooled.fill, fp)
            await upload(client, NetworkFilePut(self.object_id, remote_path), spooled.content, Done)
        if progress_cb is not None:
            progress_cb(advance=spooled.size)
        return spooled.size

    async def _upload(self, sources: Sources, progress: Optional[Progress]) -> None:
        from modal._network_upload import NetworkUpload

        client = await self._ready()
        await call_blocking(NetworkUpload(client, self.object_id, sources, progress).run)

    @synchronized
    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        """Read a file from the network file system, in chunks."""
        async for chunk in self._chunks(path):
            yield chunk

    @synchronized
    async def iterdir(self, path: str) -> AsyncIterator[FileEntry]:
        """Iterate over all files in a directory in the network file system.

        * Passing a directory path lists all files in the directory (names are relative to the directory)
        * Passing a file path returns a list containing only that file's listing description
        * Passing a glob path (including at least one * or ** sequence) returns all files matching
          that glob path (using absolute paths)
        """
        async for entry in self._entries(path, False):
            yield entry

    @synchronized
    async def add_local_file(
        self,
        local_path: Union[Path, str],
        remote_path: Optional[Union[str, PurePosixPath, None]] = None,
        progress_cb: Optional[Callable[..., Any]] = None,
    ) -> None:
        """Add a local file: at `remote_path`, else in the root under its own name.

        Raises FileNotFoundError, and InvalidError for a directory.
        """
        from modal._upload_sources import Sources, remote_place

        local = _existing(local_path, "add_local_file")
        if os.path.isdir(local):
            raise InvalidError(f"add_local_file: {local} is a directory. Use add_local_dir.")
        remote = "/" if remote_path is None else str(remote_path)
        if remote.endswith("/"):
            remote += os.path.basename(local)
        sources = Sources()
        sources.add_file(local, remote_place(remote))
        await self._upload(sources, _Increments(progress_cb) if progress_cb is not None else None)

    @synchronized
    async def add_local_dir(
        self,
        local_path: Union[Path, str],
        remote_path: Optional[Union[str, PurePosixPath, None]] = None,
        progress_cb: Optional[Callable[..., Any]] = None,
    ) -> None:
        """Add all of a local directory, empty ones too: below `remote_path`, else below the directory's own name.

        Links to files and directories outside of it are followed; those that lead to a place inside stay links.
        """
        local = _existing(local_path, "add_local_dir")
        if not os.path.isdir(local):
            raise InvalidError(f"add_local_dir: {local} is a file. Use add_local_file.")
        from modal._upload_sources import Sources, remote_place

        remote = remote_place(os.path.basename(local) if remote_path is None else remote_path)
        sources = Sources()
        sources.add_directory(local, remote)
        await self._upload(sources, _Increments(progress_cb) if progress_cb is not None else None)

    @synchronized
    async def listdir(self, path: str) -> list[FileEntry]:
        """List all files in a directory in the network file system; see `iterdir`."""
        return [entry async for entry in self._entries(path, False)]

    @synchronized
    async def remove_file(self, path: str, recursive: bool = False) -> None:
        """Remove a file in a network file system; a directory with `recursive`."""
        await self._remove(path, recursive)


def _existing(path: Union[Path, str], what: str) -> str:
    local = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if not os.path.exists(local):
        raise FileNotFoundError(f"{what}: there is no file or directory {local}.")
    return local


class _Increments:
    """Tells a `progress_cb` how many bytes more are done."""

    def __init__(self, progress_cb: Callable[..., Any]) -> None:
        self._progress_cb = progress_cb
        self._told = 0

    def __call__(self, files: int, all_files: int, done: int, total: int) -> None:
        if done > self._told:
            self._told, more = done, done - self._told
            self._progress_cb(advance=more)


class _Spooled:
    """The content of a file object: in memory, or where it is large in a file, as it may have to be sent twice."""

    def __init__(self) -> None:
        self.content: Union[str, List[bytes]] = []
        self.size = 0

    def fill(self, fp: BinaryIO) -> None:
        """Blocking. Raises InvalidError where it is not binary."""
        import tempfile

        parts: List[bytes] = []
        file: Optional[BinaryIO] = None
        try:
            while True:
                part: Any = fp.read(SPOOLED_FROM)
                if not isinstance(part, (bytes, bytearray, memoryview)):
                    raise InvalidError(
                        "write_file: the file object must be binary (opened with 'rb', or an io.BytesIO)."
                    )
                if not part:
                    break
                parts.append(bytes(part))
                self.size += len(part)
                if file is None and self.size > SPOOLED_FROM:
                    fd, self.content = tempfile.mkstemp(prefix="modal-upload-")
                    file = os.fdopen(fd, "wb")
                if file is not None:
                    file.writelines(parts)
                    parts = []
        finally:
            if file is not None:
                file.close()
        if file is None:
            self.content = parts

    def __enter__(self) -> _Spooled:
        return self

    def __exit__(self, *_problem: object) -> None:
        if isinstance(self.content, str):
            os.unlink(self.content)
