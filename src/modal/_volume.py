"""Volumes: files that functions share and keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, Optional, Sequence

from modal._named import _Named
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._planned import planned

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from modal._client import Client
    from modal.volume import FileEntry


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
