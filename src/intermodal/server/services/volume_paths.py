"""Paths inside volumes: checked once, then relative to the root, without anything that could lead elsewhere."""

from __future__ import annotations

import os

from modal._protocol.errors import Code, Fault
from modal._protocol.messages.volume import CLEARED, DIRECTORY, FILE, REMOVED, SYMLINK, Entry

MAX_NAME = 255  # bytes
MAX_PATH = 4095  # bytes
KINDS = (FILE, DIRECTORY, SYMLINK, REMOVED, CLEARED)


def clean(path: str) -> str:
    """A path as people write it ("/a//b/", "./a/b"), as entries have it ("a/b"; "" is the root). Fault: invalid."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    cleaned = "/".join(parts)
    check(cleaned)
    return cleaned


def check(path: str) -> None:
    """Fault(invalid) unless this is an entry's path."""
    parts = path.split("/") if path else []
    if ".." in parts:
        raise Fault(Code.INVALID, f"the path {path[:200]!r} leads out of the volume: leave out the '..'")
    if "" in parts or "." in parts or "\0" in path:
        raise Fault(Code.INVALID, f"{path[:200]!r} is no path in a volume")
    try:
        encoded = os.fsencode(path)
        longest = max((len(os.fsencode(part)) for part in parts), default=0)
    except UnicodeEncodeError:
        raise Fault(Code.INVALID, f"{path[:200]!r} is no path: it has characters that no file system takes") from None
    if longest > MAX_NAME:
        raise Fault(Code.INVALID, f"the path {path[:80]!r}… is too long: a name may have {MAX_NAME} bytes")
    if len(encoded) > MAX_PATH:
        raise Fault(Code.INVALID, f"the path {path[:80]!r}… is too long: {len(encoded):,} bytes, of {MAX_PATH:,}")


def check_entry(entry: Entry, hashed: bool = True) -> Entry:
    """The entry itself, if a peer may say it. `hashed`: a file must have the hash of its content. Fault: invalid."""
    check(entry.path)
    if entry.kind not in KINDS or not (0 <= entry.mode <= 0o7777):
        raise Fault(Code.INVALID, f"{entry.path[:200]!r} is neither a file nor a directory nor a symbolic link")
    if hashed and entry.kind == FILE and (len(entry.content) != 64 or entry.size < 0 or not entry.content.isalnum()):
        raise Fault(Code.INVALID, f"{entry.path[:200]!r}: a file has a SHA-256 and a size")
    if entry.kind == SYMLINK and (not entry.content or "\0" in entry.content or len(entry.content) > MAX_PATH):
        raise Fault(Code.INVALID, f"{entry.path[:200]!r}: a symbolic link has a target")
    return entry


def join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
