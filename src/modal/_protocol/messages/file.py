"""Local files on their way into images and containers, by content hash."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message, Record


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
    hash: str
    size: int
    mode: int = 0o644
    link: str = ""  # target, for a symbolic link (then hash is "")


class MountPut(Message, type=67):
    """A set of files under one id (a hash of the entries). Answered with MountKnown. Fault: not-found (a hash)."""

    entries: List[FileEntry]


class MountKnown(Message, type=68):
    mount_id: str
