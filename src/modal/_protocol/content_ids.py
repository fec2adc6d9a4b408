"""Ids that are hashes of what they name: equal content has an equal id, whoever computes it."""

from __future__ import annotations

import json
import string
from typing import Any

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
LENGTH = 22  # characters after the prefix: 131 bits


def content_id(prefix: str, content: bytes) -> str:
    """The id of this content: equal content, equal id."""
    import hashlib

    return digest_id(prefix, hashlib.sha256(content).digest())


def digest_id(prefix: str, digest: bytes) -> str:
    """The id that a digest of at least 17 bytes stands for."""
    number = int.from_bytes(digest, "big")
    characters = []
    for _ in range(LENGTH):
        number, rest = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[rest])
    return f"{prefix}-{''.join(characters)}"


def canonical(value: Any) -> bytes:
    """One text for equal JSON values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
