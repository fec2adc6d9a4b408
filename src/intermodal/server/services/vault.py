"""Encrypts what secrets hold. `vault_keys` says where the key lies.

The key has 32 bytes: the key of the cipher and, at first, of the ids of inline secrets; after a rotation 64
bytes: the cipher's new key, then that of the ids, which stays (so that images stay cached).

A rotation writes the new key beside the old one, encrypts everything anew in one transaction, and then puts the new
key in the place of the old. Whatever the moment at which the server dies, each content opens with
one of the two, and the next start ends the rotation.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
from typing import TYPE_CHECKING

from intermodal.server.ids import canonical, digest_id
from intermodal.server.services.vault_keys import KEY_BYTES, KeyPlace
from modal._protocol.errors import Code, Fault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
_log = logging.getLogger(__name__)


class Vault:
    """AES-256-GCM; the secret's id is bound in, so that contents cannot be swapped."""

    def __init__(self, place: KeyPlace) -> None:
        self._place = place
        self._keys: list[bytes] = []  # of the cipher: the one to seal with, then those that open what is older
        self._id_key = b""
        self._ciphers: dict[bytes, AESGCM] = {}

    @property
    def rotating(self) -> bool:
        """Whether a rotation has begun and not ended."""
        return self._place.read_next() is not None

    def seal(self, secret_id: str, values: dict[str, str]) -> bytes:
        self._load()
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aes(self._keys[0]).encrypt(nonce, json.dumps(values).encode(), secret_id.encode())

    def open(self, secret_id: str, content: bytes) -> dict[str, str]:
        """Raises Fault where the key is not the one that it was sealed with."""
        from cryptography.exceptions import InvalidTag

        self._load()
        for key in self._keys:
            try:
                text = self._aes(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], secret_id.encode())
            except InvalidTag:
                continue
            values: dict[str, str] = json.loads(text)
            return values
        raise Fault(
            Code.INTERNAL,
            f"secret {secret_id} cannot be decrypted: {self._place.name} is not the key that it was made with. "
            "Restore that key, or create the secret again",
        )

    def content_id(self, values: dict[str, str]) -> str:
        """The id of an inline secret: equal values give equal ids (so images stay cached); without the key nobody
        can check a guess."""
        self._load()
        return digest_id("st", hmac.new(self._id_key, b"inline" + canonical(values), hashlib.sha256).digest())

    # -- another key
    def begin_rotation(self) -> None:
        """Seal with a new key from now on; it is on the disk. What was sealed before still opens."""
        self._load()
        if not self.rotating:
            key = os.urandom(KEY_BYTES)
            self._place.write_next(key + self._id_key)
            self._keys.insert(0, key)

    def reseal(self, secret_id: str, content: bytes) -> bytes:
        """The same content, sealed with the new key; what cannot be opened stays what it is."""
        try:
            return self.seal(secret_id, self.open(secret_id, content))
        except Fault as fault:
            _log.error("%s", fault)
            return content

    def finish_rotation(self) -> None:
        """Everything is sealed with the new key: the old one is not needed any more."""
        self._place.take_next()
        del self._keys[1:]
        self._ciphers.clear()

    # -- keys
    def _aes(self, key: bytes) -> AESGCM:
        cipher = self._ciphers.get(key)
        if cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 8 MB: only servers with secrets pay

            cipher = self._ciphers[key] = AESGCM(key)
        return cipher

    def _load(self) -> None:
        if self._keys:
            return
        content = self._place.read()
        if content is None:
            content = os.urandom(KEY_BYTES)
            self._place.write(content)
        keys = [self._checked(content)[:KEY_BYTES]]
        following = self._place.read_next()
        if following is not None:
            keys.insert(0, self._checked(following)[:KEY_BYTES])
        self._id_key = content[-KEY_BYTES:]
        self._keys = keys

    def _checked(self, content: bytes) -> bytes:
        """Fault where it is no key."""
        if len(content) not in (KEY_BYTES, 2 * KEY_BYTES):
            raise Fault(
                Code.INTERNAL, f"{self._place.name} has {len(content)} bytes and is no key: restore it from a backup"
            )
        return content
