"""Network file systems: a directory that all containers see at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Callable, Iterator, Optional, Union

from modal._named import _Named
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._planned import planned

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path, PurePosixPath

    from modal._client import Client
    from modal.volume import FileEntry


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
