"""Files of a sandbox."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Iterator, Optional, TypeVar, Union

from modal._planned import not_yet, planned

if TYPE_CHECKING:
    from modal._client import Client

T = TypeVar("T")


class FileWatchEventType(Enum):
    """What happened to a watched path."""

    Unknown = "Unknown"
    Access = "Access"
    Create = "Create"
    Modify = "Modify"
    Remove = "Remove"


class FileWatchEvent:
    """FileWatchEvent(paths: list[str], type: modal.file_io.FileWatchEventType)"""

    __slots__ = ("paths", "type")

    def __init__(self, paths: list[str], type: FileWatchEventType) -> None:
        self.paths = paths
        self.type = type

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileWatchEvent):
            return NotImplemented
        return self.paths == other.paths and self.type is other.type

    __hash__ = None  # type: ignore[assignment]  # the paths may change

    def __repr__(self) -> str:
        return f"FileWatchEvent(paths={self.paths!r}, type={self.type!r})"


class FileIO(Generic[T]):
    """FileIO handle, used in the Sandbox filesystem API. Works like a Python file object, also with `with`."""

    def __init__(self, client: Client, task_id: str) -> None:
        raise not_yet("modal.file_io.FileIO")

    @planned
    @classmethod
    def create(cls, path: str, mode: str, client: Client, task_id: str) -> FileIO[Any]:
        """Create a new FileIO handle."""
        raise AssertionError

    @planned
    def read(self, n: Optional[int] = None) -> T:
        """Read n bytes from the current position, or the entire remaining file if n is None."""
        raise AssertionError

    @planned
    def readline(self) -> T:
        """Read a single line from the current position."""
        raise AssertionError

    @planned
    def readlines(self) -> list[T]:
        """Read all lines from the current position."""
        raise AssertionError

    @planned
    def write(self, data: Union[bytes, str]) -> None:
        """Write data to the current position. Does nothing until `flush` or `close`."""

    @planned
    def flush(self) -> None:
        """Flush the buffer to disk."""

    @planned
    def seek(self, offset: int, whence: int = 0) -> None:
        """Move to a new position in the file."""

    @planned
    @classmethod
    def ls(cls, path: str, client: Client, task_id: str) -> list[str]:
        """List the contents of the provided directory."""
        raise AssertionError

    @planned
    @classmethod
    def mkdir(cls, path: str, client: Client, task_id: str, parents: bool = False) -> None:
        """Create a new directory."""

    @planned
    @classmethod
    def rm(cls, path: str, client: Client, task_id: str, recursive: bool = False) -> None:
        """Remove a file or directory in the Sandbox."""

    @planned
    @classmethod
    def watch(
        cls,
        path: str,
        client: Client,
        task_id: str,
        filter: Optional[list[FileWatchEventType]] = None,
        recursive: bool = False,
        timeout: Optional[int] = None,
    ) -> Iterator[FileWatchEvent]:
        """Follow what happens to a path."""
        raise AssertionError

    @planned
    def close(self) -> None:
        """Flush the buffer and close the file."""

    def __enter__(self) -> FileIO[T]:
        return self

    def __exit__(self, *_exc_info: Any) -> None:
        self.close()


@planned
def delete_bytes(file: FileIO[Any], start: Optional[int] = None, end: Optional[int] = None) -> None:
    """Delete a range of bytes from the file: `start` inclusive, `end` exclusive, None: the file's own ends."""


@planned
def replace_bytes(file: FileIO[Any], data: bytes, start: Optional[int] = None, end: Optional[int] = None) -> None:
    """Replace a range of bytes in the file with new data."""
