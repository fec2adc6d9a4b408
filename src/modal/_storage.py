"""Volumes, network file systems and bucket mounts: what functions mount at a path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Iterator, Optional, Sequence, Union

from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP, Object, check_object_name
from modal._planned import not_yet, planned
from modal.exception import InvalidError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path, PurePosixPath

    from modal._client import Client
    from modal._protocol.messages.function import VolumeMount
    from modal._secret import Secret
    from modal.volume import FileEntry


class _Named(Object):
    """An object that is found by its name, and made where it is missing when that was asked for."""

    _name = ""
    _environment: Optional[str] = None
    _create = False

    @classmethod
    def _named(cls, name: str, environment_name: Optional[str], create_if_missing: bool) -> Any:
        made = cls.__new__(cls)
        made._name = check_object_name(name, cls.__name__)
        made._environment = environment_name
        made._create = create_if_missing
        return made

    async def _load(self, client: Client) -> None:
        raise not_yet(f"modal.{type(self).__name__}")

    async def _mount(self, client: Client, path: str) -> VolumeMount:
        """As a part of a function's spec."""
        raise not_yet(f"Mounting a modal.{type(self).__name__} (here at {path})")

    def __reduce__(self) -> Any:
        if self._object_id is None and self._name:
            return _restore_named, (type(self), self._name, self._environment, self._create)
        return super().__reduce__()

    def __repr__(self) -> str:
        return f"modal.{type(self).__name__}.from_name({self._name!r})" if self._name else super().__repr__()


def _restore_named(cls: type[_Named], name: str, environment: Optional[str], create: bool) -> Any:
    return cls._named(name, environment, create)


class Volume(_Named):
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
    """

    _kind = "volume"

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
        version: Optional[int] = None,
    ) -> Volume:
        """Reference a Volume by name, creating if necessary, when it is first used."""
        return Volume._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @planned
    @classmethod
    def ephemeral(
        cls,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        version: Optional[int] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AbstractContextManager[Volume]:
        """Creates a new ephemeral volume within a context manager."""
        raise AssertionError

    @planned
    def commit(self) -> None:
        """Commit changes to the volume."""

    @planned
    def reload(self) -> None:
        """Make latest committed state of volume available in the running container."""

    @planned
    def iterdir(self, path: str, *, recursive: bool = True) -> Iterator[FileEntry]:
        """Iterate over all files in a directory in the volume."""
        raise AssertionError

    @planned
    def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:
        """List all files under a path prefix in the modal.Volume."""
        raise AssertionError

    @planned
    def read_file(self, path: str) -> Iterator[bytes]:
        """Read a file from the modal.Volume."""
        raise AssertionError

    @planned
    def remove_file(self, path: str, recursive: bool = False) -> None:
        """Remove a file or directory from a volume."""

    @planned
    def copy_files(self, src_paths: Sequence[str], dst_path: str) -> None:
        """Copy files within the volume from src_paths to dst_path."""

    @planned
    def batch_upload(self, force: bool = False) -> Any:
        """Initiate a batched upload to a volume."""

    @planned
    @staticmethod
    def delete(name: str, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a volume by name."""

    @planned
    @staticmethod
    def rename(
        old_name: str,
        new_name: str,
        *,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
    ) -> None:
        """Rename a volume."""


class NetworkFileSystem(_Named):
    """A shared, writable file system accessible by one or more Modal functions. Superseded by `modal.Volume`."""

    _kind = "network file system"

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> NetworkFileSystem:
        """Reference a NetworkFileSystem by its name, creating if necessary, when it is first used."""
        return NetworkFileSystem._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @planned
    @classmethod
    def ephemeral(
        cls,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AbstractContextManager[NetworkFileSystem]:
        """Creates a new ephemeral network filesystem within a context manager."""
        raise AssertionError

    @planned
    @staticmethod
    def delete(name: str, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a network file system by name."""

    @planned
    def write_file(self, remote_path: str, fp: BinaryIO, progress_cb: Optional[Callable[..., Any]] = None) -> int:
        """Write from a file object to a path on the network file system, atomically."""
        raise AssertionError

    @planned
    def read_file(self, path: str) -> Iterator[bytes]:
        """Read a file from the network file system."""
        raise AssertionError

    @planned
    def iterdir(self, path: str) -> Iterator[FileEntry]:
        """Iterate over all files in a directory in the network file system."""
        raise AssertionError

    @planned
    def add_local_file(
        self,
        local_path: Union[Path, str],
        remote_path: Optional[Union[str, PurePosixPath, None]] = None,
        progress_cb: Optional[Callable[..., Any]] = None,
    ) -> None:
        """Add a local file."""

    @planned
    def add_local_dir(
        self,
        local_path: Union[Path, str],
        remote_path: Optional[Union[str, PurePosixPath, None]] = None,
        progress_cb: Optional[Callable[..., Any]] = None,
    ) -> None:
        """Add a local directory."""

    @planned
    def listdir(self, path: str) -> list[FileEntry]:
        """List all files in a directory in the network file system."""
        raise AssertionError

    @planned
    def remove_file(self, path: str, recursive: bool = False) -> None:
        """Remove a file in a network file system."""


class CloudBucketMount:
    """Mounts a cloud bucket to your container. Currently supports AWS S3 buckets and what is compatible."""

    def __init__(
        self,
        bucket_name: str,
        bucket_endpoint_url: Optional[str] = None,
        key_prefix: Optional[str] = None,
        secret: Optional[Secret] = None,
        oidc_auth_role_arn: Optional[str] = None,
        read_only: bool = False,
        requester_pays: bool = False,
    ) -> None:
        if key_prefix is not None and not key_prefix.endswith("/"):
            raise InvalidError(f"CloudBucketMount: key_prefix must end with a slash: {key_prefix + '/'!r}.")
        if requester_pays and secret is None:
            raise InvalidError("CloudBucketMount: requester_pays needs a secret with credentials.")
        if secret is not None and oidc_auth_role_arn is not None:
            raise InvalidError("CloudBucketMount: give either a secret or oidc_auth_role_arn.")
        self.bucket_name = bucket_name
        self.bucket_endpoint_url = bucket_endpoint_url
        self.key_prefix = key_prefix
        self.secret = secret
        self.oidc_auth_role_arn = oidc_auth_role_arn
        self.read_only = read_only
        self.requester_pays = requester_pays

    async def _mount(self, client: Client, path: str) -> VolumeMount:
        raise not_yet(f"Mounting a modal.CloudBucketMount (here at {path})")

    def __repr__(self) -> str:
        return f"modal.CloudBucketMount({self.bucket_name!r})"
