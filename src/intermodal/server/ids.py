"""Identifiers: a prefix and 22 characters of [A-Za-z0-9]."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from typing import Any

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
CALL_ALPHABET = string.digits + "ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 22  # characters after the prefix: 131 bits
_BLOB_ID = re.compile(r"vl-[0-9A-Za-z]{22,64}")


def new_id(prefix: str) -> str:
    """A random id that nobody has: `new_id("ap")` gives `ap-…`."""
    return f"{prefix}-{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"


def new_call_id() -> str:
    """The id of a call that the server itself makes, as clients name theirs: `fc-` and 26 characters of base 32."""
    return "fc-" + "".join(secrets.choice(CALL_ALPHABET) for _ in range(26))


def content_id(prefix: str, content: bytes) -> str:
    """The id of this content: equal content, equal id."""
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


def looks_like(prefix: str, text: str) -> bool:
    """Whether a name has the form of an id with this prefix."""
    rest = text[len(prefix) + 1 :]
    return text.startswith(f"{prefix}-") and len(rest) == LENGTH and rest.isascii() and rest.isalnum()


def is_blob_id(text: str) -> bool:
    """Whether this may name a file below `values/`: nothing that could lead out of it."""
    return _BLOB_ID.fullmatch(text) is not None
