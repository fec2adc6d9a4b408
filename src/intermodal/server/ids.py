"""Identifiers: a prefix and 22 characters of [A-Za-z0-9]."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string

from modal._protocol.content_ids import ALPHABET, LENGTH, canonical, content_id, digest_id

CALL_ALPHABET = string.digits + "ABCDEFGHJKMNPQRSTVWXYZ"
__all__ = ["call_id_of", "canonical", "content_id", "digest_id", "is_blob_id", "looks_like", "new_id"]
_BLOB_ID = re.compile(r"vl-[0-9A-Za-z]{22,64}")


def new_id(prefix: str) -> str:
    """A random id that nobody has: `new_id("ap")` gives `ap-…`."""
    return f"{prefix}-{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"


def call_id_of(*parts: object) -> str:
    """The id of a call that the server itself makes, the same for the same parts: clients' look like it.

    `fc-` and 26 characters of base 32.
    """
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return "fc-" + "".join(CALL_ALPHABET[byte % len(CALL_ALPHABET)] for byte in digest[:26])


def looks_like(prefix: str, text: str) -> bool:
    """Whether a name has the form of an id with this prefix."""
    rest = text[len(prefix) + 1 :]
    return text.startswith(f"{prefix}-") and len(rest) == LENGTH and rest.isascii() and rest.isalnum()


def is_blob_id(text: str) -> bool:
    """Whether this may name a file below `values/`: nothing that could lead out of it."""
    return _BLOB_ID.fullmatch(text) is not None
