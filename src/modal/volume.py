"""What the files of volumes and network file systems are called in listings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from modal._volume import Volume


class FileEntryType(IntEnum):
    """Type of a file entry listed from a Modal volume."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


@dataclass(frozen=True, order=True)
class FileEntry:
    """A file or directory entry listed from a Modal volume."""

    path: str  # relative to the volume's root
    type: FileEntryType
    mtime: int  # seconds since the epoch
    size: int  # bytes


__all__ = ["FileEntry", "FileEntryType", "Volume"]
