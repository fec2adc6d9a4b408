"""Local files on their way into images and containers, by content hash."""

from __future__ import annotations

from typing import List

from modal._protocol.content_ids import canonical, content_id
from modal._protocol.message import Message, Record, to_json


class FilesMissing(Message, type=64):
    """Which of these does the server lack? As question and as answer. Hashes: SHA-256, hexadecimal."""

    hashes: List[str]


class FilesPut(Message, type=65):
    """Several small files at once; the server checks every hash. Answered with Done."""

    hashes: List[str]
    contents: List[bytes]


class FilePut(Message, type=66):
    """One large file: BlobChunk items up, END; answered with Done."""

    hash: str
    size: int


class FileEntry(Record):
    path: str  # absolute, in the container
    hash: str  # "" for a symbolic link, and for a directory that is empty
    size: int
    mode: int = 0o644
    link: str = ""  # target, for a symbolic link


class MountPut(Message, type=67):
    """A set of files under one id (a hash of the entries). Answered with MountKnown. Fault: not-found (a hash)."""

    entries: List[FileEntry]


class MountsMissing(Message, type=395):
    """Which of these sets does the server lack? As question and as answer: a set that it has need not be sent."""

    mount_ids: List[str]


class MountKnown(Message, type=68):
    mount_id: str


def mount_id_of(entries: List[FileEntry]) -> str:
    """The id of a set of files, sorted by path. Raises UnicodeEncodeError for a path that is not UTF-8."""
    return content_id("mo", canonical([to_json(entry) for entry in entries]))
