"""Volumes: files that functions share and keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Iterator, Optional, Sequence, Type, TypeVar

from modal._named import _Named
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP, environment_of
from modal._sync import synchronized, synchronized_context, synchronized_context_classmethod
from modal.exception import AlreadyExistsError, ExecutionError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol.message import Message
    from modal._protocol.messages.function import VolumeMount
    from modal._volume_upload import VolumeUpload
    from modal.volume import FileEntry

    M = TypeVar("M", bound=Message)
else:
    M = TypeVar("M")

VERSIONS = (None, 0, 1, 2)  # of the file system, as the documentation counts them; here they are all the same


class VolumeFileNotFoundError(NotFoundError, FileNotFoundError):
    """There is no such file or directory in the volume."""


class VolumeFileExistsError(AlreadyExistsError, FileExistsError):
    """Something is at that path in the volume already."""


class VolumeBusyError(ExecutionError, RuntimeError):
    """Raised by `reload()` while files of the volume are open in the container."""


class VolumeFullError(ExecutionError, OSError):
    """The volume holds all the files that it can, or the disk is full. `errno` is ENOSPC."""


class _Stored(_Named):
    """What volumes and network file systems have in common."""

    _format = 0

    @classmethod
    def _wire_kind(cls) -> str:
        raise NotImplementedError

    async def _load(self, client: Client) -> None:
        from modal._protocol.messages.volume import VolumeGet, Volumes

        environment = environment_of(self._environment)
        request = VolumeGet(self._name, environment, self._wire_kind(), self._create, format=self._format)
        self._object_id = (await client.request(request, Volumes)).volumes[0].volume_id

    async def _mount(self, client: Client, path: str) -> VolumeMount:
        from modal._protocol.messages.function import VolumeMount

        await self._ready(client)
        return VolumeMount(path, self._wire_kind(), self.object_id)

    async def _ask(self, message: Callable[[str], Message], expect: Type[M]) -> M:
        """A question about this volume's files. Raises the builtin errors of files too."""
        client = await self._ready()
        try:
            return await client.request(message(self.object_id), expect)
        except (NotFoundError, AlreadyExistsError) as error:
            raise _file_error(error) from None

    async def _items(self, message: Callable[[str], Message]) -> AsyncIterator[Any]:
        client = await self._ready()
        try:
            async for item in client.stream(message(self.object_id)):
                yield item
        except (NotFoundError, AlreadyExistsError) as error:
            raise _file_error(error) from None

    async def _entries(self, path: str, recursive: bool) -> AsyncIterator[FileEntry]:
        from modal._protocol.messages.volume import Entry, VolumeLs
        from modal.volume import FileEntry, FileEntryType

        check_path(path)
        async for item in self._items(lambda volume_id: VolumeLs(volume_id, path, recursive)):
            for values in item.entries:
                entry = Entry(*values)
                yield FileEntry(entry.path, FileEntryType(entry.kind), entry.mtime // 1_000_000_000, entry.size)

    async def _chunks(self, path: str, offset: int = 0) -> AsyncIterator[bytes]:
        from modal._protocol.messages.call import BlobChunk
        from modal._protocol.messages.volume import VolumeRead

        check_path(path)
        async for item in self._items(lambda volume_id: VolumeRead(volume_id, path, offset)):
            if isinstance(item, BlobChunk):
                yield item.data

    def _chunks_blocking(self, path: str, offset: int = 0) -> Iterator[bytes]:
        from modal import _sync

        return _sync.iterate(self._chunks(path, offset))

    async def _remove(self, path: str, recursive: bool) -> None:
        from modal._protocol.messages.volume import VolumeEdit
        from modal._protocol.messages.wire import Done

        check_path(path)
        await self._ask(lambda volume_id: VolumeEdit(volume_id, "remove", [path], recursive=recursive), Done)

    @classmethod
    async def _new_ephemeral(
        cls, client: Optional[Client], environment_name: Optional[str], format: int, heartbeat: float
    ) -> AsyncIterator[Any]:
        from modal._client import Client
        from modal._ephemeral import Heartbeat
        from modal._protocol.messages.volume import VolumeDelete, VolumeGet, Volumes
        from modal._protocol.messages.wire import Done

        client = client or Client.current()
        request = VolumeGet("", environment_of(environment_name), cls._wire_kind(), ephemeral=True, format=format)
        made = cls._from_object_id((await client.request(request, Volumes)).volumes[0].volume_id)
        made._client = client
        beat = Heartbeat(client, VolumeGet(volume_id=made.object_id), Volumes, heartbeat)
        try:
            yield made
        finally:
            beat.stop()
            await client.request(VolumeDelete(volume_id=made.object_id), Done)

    @classmethod
    async def _delete(cls, name: str, client: Optional[Client], environment_name: Optional[str]) -> None:
        from modal._client import Client
        from modal._object import check_object_name
        from modal._protocol.messages.volume import VolumeDelete
        from modal._protocol.messages.wire import Done

        check_object_name(name, cls.__name__)
        request = VolumeDelete(name, environment_of(environment_name), cls._wire_kind())
        await (client or Client.current()).request(request, Done)


class Volume(_Stored):
    """A writeable volume that can be used to share files between one or more Modal functions.

    The contents of a volume is exposed as a filesystem. You can use it to share data between different functions,
    or to persist durable state across several instances of the same function.

    ```python
    volume = modal.Volume.from_name("my-persisted-volume", create_if_missing=True)

    @app.function(volumes={"/root/foo": volume})
    def f():
        with open("/root/foo/bar.txt", "w") as f:
            f.write("hello")
        volume.commit()  # Persist changes
    ```

    Unlike a networked filesystem, a container sees what others have changed after `reload()` only, and others see
    what it has changed after `commit()` (which also happens every few seconds, and when the container ends). Where
    two containers change the same file, the last one to commit wins. A volume holds 500,000 files, directories and
    links. See [the guide](https://modal.com/docs/guide/volumes).

    Methods that are given a path in the volume raise FileNotFoundError (a NotFoundError too) where nothing is there,
    and InvalidError for what is no path; all of them raise NotFoundError where there is no volume of this name.
    """

    _kind = "volume"

    @classmethod
    def _wire_kind(cls) -> str:
        from modal._protocol.messages.volume import VOLUME

        return VOLUME

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
        version: Optional[int] = None,
    ) -> Volume:
        """Reference a Volume by name, creating if necessary, when it is first used.

        `version` is that of the file system (1 or 2), which makes no difference here. Raises InvalidError for a name
        that no volume can have.
        """
        made: Volume = Volume._named(name, environment_name, create_if_missing)
        made._format = _check_version(version)
        return made

    @synchronized_context_classmethod
    async def ephemeral(
        cls: Type[Volume],
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        version: Optional[int] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AsyncIterator[Volume]:
        """Creates a new ephemeral volume within a context manager:

        ```python
        with modal.Volume.ephemeral() as vol:
            assert vol.listdir("/") == []
        ```
        """
        async for made in cls._new_ephemeral(client, environment_name, _check_version(version), _heartbeat_sleep):
            yield made

    @synchronized
    async def commit(self) -> None:
        """Commit changes to the volume.

        If successful, the changes made are now persisted in durable storage and available to other containers
        accessing the volume.

        Raises ExecutionError where the volume is not mounted here, NotFoundError where it was deleted, and OSError
        (ENOSPC) where it, or the disk, is full; the volume is then as it was before.
        """
        await self._sync("commit")

    @synchronized
    async def reload(self) -> None:
        """Make latest committed state of volume available in the running container.

        Any uncommitted changes to the volume, such as new or modified files, are committed before.

        Raises RuntimeError ("volume busy") while a process of the container has a file of the volume open, or its
        working directory there.
        """
        await self._sync("reload")

    async def _sync(self, action: str) -> None:
        from modal._endpoint import CALL_PATIENCE
        from modal._protocol.messages.volume import VolumeSync
        from modal._protocol.messages.wire import Done
        from modal.exception import InternalFailure, ResourceExhaustedError

        client = await self._ready()
        try:
            await client.request(VolumeSync(self.object_id, action), Done, patience=CALL_PATIENCE)
        except ResourceExhaustedError as error:
            import errno

            raise VolumeFullError(errno.ENOSPC, str(error)) from None
        except ExecutionError as error:
            if str(error).startswith("volume busy"):
                raise VolumeBusyError(str(error)) from None
            if "is not mounted in this container" in str(error):
                raise ExecutionError(
                    f"{self!r} is not mounted in this container, so there is nothing to {action}: name it in the "
                    "function's `volumes=`."
                ) from None
            raise
        except InternalFailure:
            # Its worker, or the server, was restarted in the middle: nothing was committed, or all of it.
            await client.request(VolumeSync(self.object_id, action), Done, patience=CALL_PATIENCE)

    @synchronized
    async def iterdir(self, path: str, *, recursive: bool = True) -> AsyncIterator[FileEntry]:
        """Iterate over all files in a directory in the volume.

        Passing a directory path lists all files in the directory. For a file path, return only that file's
        description. If `recursive` is set to True, list all files and folders under the path recursively.
        Times of entries are in seconds since the epoch, sizes in bytes.
        """
        async for entry in self._entries(path, recursive):
            yield entry

    @synchronized
    async def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:
        """List all files under a path prefix in the modal.Volume.

        Passing a directory path lists all files in the directory. For a file path, return only that file's
        description. If `recursive` is set to True, list all files and folders under the path recursively.
        """
        return [entry async for entry in self._entries(path, recursive)]

    @synchronized
    async def read_file(self, path: str) -> AsyncIterator[bytes]:
        """Read a file from the modal.Volume, in chunks.

        ```python
        data = b""
        for chunk in vol.read_file("1mb.csv"):
            data += chunk
        ```
        """
        async for chunk in self._chunks(path):
            yield chunk

    @synchronized
    async def remove_file(self, path: str, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a directory, from a volume.

        Raises InvalidError for a directory without `recursive`.
        """
        await self._remove(path, recursive)

    @synchronized
    async def copy_files(self, src_paths: Sequence[str], dst_path: str) -> None:
        """Copy files within the volume from src_paths to dst_path, as the UNIX `cp` command does.

        ```python
        vol.copy_files(["bar/example.txt"], "bar2")  # Copy files to another directory
        vol.copy_files(["bar/example.txt"], "bar/example2.txt")  # Rename a file by copying
        ```

        Raises InvalidError where several files are to become one, or a directory is to be copied.
        """
        from modal._protocol.messages.volume import VolumeEdit
        from modal._protocol.messages.wire import Done

        if isinstance(src_paths, (str, bytes)):
            raise InvalidError(f"copy_files: src_paths is a list of paths: write [{src_paths!r}].")
        sources = list(src_paths)
        for path in (*sources, dst_path):
            check_path(path)
        await self._ask(lambda volume_id: VolumeEdit(volume_id, "copy", sources, dst_path), Done)

    @synchronized_context
    async def batch_upload(self, force: bool = False) -> AsyncIterator[VolumeUpload]:
        """Initiate a batched upload to a volume. All of it appears at once, when the block ends without an error.

        To allow overwriting existing files, set `force` to `True` (you cannot overwrite existing directories with
        uploaded files regardless).

        ```python
        with vol.batch_upload() as batch:
            batch.put_file("local-path.txt", "/remote-path.txt")
            batch.put_directory("/local/directory/", "/remote/directory")
            batch.put_file(io.BytesIO(b"some data"), "/foobar")
        ```

        At the end of the block, raises FileExistsError (an AlreadyExistsError too) where something is there already and
        must not be replaced, and ResourceExhaustedError where the volume or the disk is full; nothing has changed then.
        """
        from modal._volume_upload import VolumeUpload

        client = await self._ready()
        upload = VolumeUpload(force)
        yield upload
        try:
            await upload._send(client, self.object_id)
        except (NotFoundError, AlreadyExistsError) as error:
            raise _file_error(error) from None

    @synchronized
    @staticmethod
    async def delete(name: str, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a volume by name, with all that is in it. Raises NotFoundError."""
        await Volume._delete(name, client, environment_name)

    @synchronized
    @staticmethod
    async def rename(
        old_name: str,
        new_name: str,
        *,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
    ) -> None:
        """Rename a volume. Containers that have it mounted go on with it.

        Raises NotFoundError, and AlreadyExistsError where another volume has the new name.
        """
        from modal._client import Client
        from modal._object import check_object_name
        from modal._protocol.messages.volume import VolumeRename
        from modal._protocol.messages.wire import Done

        check_object_name(new_name, "Volume")
        request = VolumeRename(old_name, new_name, environment_of(environment_name))
        await (client or Client.current()).request(request, Done)

    def __reduce__(self) -> Any:
        if self._object_id is None and self._name:
            return _restore_volume, (self._name, self._environment, self._create, self._format)
        return super().__reduce__()


def _restore_volume(name: str, environment: Optional[str], create: bool, format: int) -> Volume:
    return Volume.from_name(name, environment_name=environment, create_if_missing=create, version=format)


def check_path(path: Any) -> None:
    """Raise InvalidError unless this may be a path in a volume."""
    if not isinstance(path, str):
        raise InvalidError(f"A path in a volume is a string, not {type(path).__name__}.")


def _check_version(version: Any) -> int:
    if version not in VERSIONS or isinstance(version, bool):
        raise InvalidError(f"A volume's version must be 1 or 2, not {version!r}.")
    return version or 0


def _file_error(error: Exception) -> Exception:
    """With the builtin exception's type beside the documented one's, so that either can be caught."""
    kind = VolumeFileExistsError if isinstance(error, AlreadyExistsError) else VolumeFileNotFoundError
    return kind(str(error))
