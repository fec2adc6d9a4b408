"""Encrypts what secrets hold. The key lies in the state directory, readable by its owner alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.server.ids import canonical, digest_id
from modal._protocol.errors import Code, Fault

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12


class Vault:
    """AES-256-GCM; the secret's id is bound in, so that contents cannot be swapped."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._key = b""
        self._cipher: AESGCM | None = None

    def seal(self, secret_id: str, values: dict[str, str]) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aes().encrypt(nonce, json.dumps(values).encode(), secret_id.encode())

    def open(self, secret_id: str, content: bytes) -> dict[str, str]:
        """Raises Fault where the key is not the one that it was sealed with."""
        from cryptography.exceptions import InvalidTag

        try:
            text = self._aes().decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], secret_id.encode())
        except InvalidTag:
            raise Fault(
                Code.INTERNAL,
                f"secret {secret_id} cannot be decrypted: {self._key_file} is not the key that it was made with. "
                "Restore that file, or create the secret again",
            ) from None
        values: dict[str, str] = json.loads(text)
        return values

    def content_id(self, values: dict[str, str]) -> str:
        """The id of an inline secret: equal values give equal ids (so images stay cached); without the key nobody
        can check a guess."""
        self._load()
        return digest_id("st", hmac.new(self._key, b"inline" + canonical(values), hashlib.sha256).digest())

    def _aes(self) -> AESGCM:
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 8 MB: only servers with secrets pay

            self._load()
            self._cipher = AESGCM(self._key)
        return self._cipher

    def _load(self) -> None:
        if self._key:
            return
        try:
            self._key = self._key_file.read_bytes()
        except FileNotFoundError:
            self._key = self._create()
        if len(self._key) != KEY_BYTES:
            size, self._key = len(self._key), b""
            raise Fault(Code.INTERNAL, f"{self._key_file} has {size} bytes and is no key: restore it from a backup")

    def _create(self) -> bytes:
        key = os.urandom(KEY_BYTES)
        temporary = self._key_file.with_name(f".{self._key_file.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, key)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self._key_file)
        return key
