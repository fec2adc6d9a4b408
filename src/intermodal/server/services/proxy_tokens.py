"""Proxy auth tokens: who may call web functions with `requires_proxy_auth=True` (guide page "Proxy auth tokens").

A token is good for all such functions of the workspace. All are in memory, so that a request waits for no disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable

from intermodal.server.ids import new_id
from intermodal.server.store.proxy_tokens import ProxyTokenRow, ProxyTokenStore
from modal._protocol.errors import Code, Fault

UNAUTHORIZED, PROXY_AUTHENTICATION_REQUIRED = 401, 407
USED_STEP = 60.0  # seconds; the last use is noted this often at most
_NO_HASH = bytes(32)


class ProxyTokens:
    """Load it with `await tokens.load()`."""

    def __init__(self, store: ProxyTokenStore) -> None:
        self._store = store
        self._tokens: dict[str, ProxyTokenRow] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        self._tokens = {token.token_id: token for token in await self._store.all()}

    @property
    def all(self) -> list[ProxyTokenRow]:
        """Oldest first."""
        return list(self._tokens.values())

    async def create(self, note: str) -> tuple[str, str]:
        """A new token: its id and its secret, which is known to nobody afterwards."""
        token_id = new_id("wk")
        secret = f"ws-{secrets.token_urlsafe(32)}"
        row = ProxyTokenRow(token_id, _hash(secret.encode()), note[:200], time.time(), 0.0)
        await self._store.add(row)
        self._tokens[token_id] = row
        return token_id, secret

    async def revoke(self, token_id: str) -> None:
        """From now on it opens nothing. Fault: not-found."""
        if not await self._store.delete(token_id):
            raise Fault(Code.NOT_FOUND, f"there is no proxy auth token {token_id}: see `intermodal proxy-token list`")
        self._tokens.pop(token_id, None)

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """The status with which a request must be refused, 0 for one that may pass. Header names in lower case.

        401 without valid `Modal-Key` and `Modal-Secret`; 407 for an invalid `Proxy-Authorization`, the older way.
        """
        keys, values, basic = [], [], []
        for name, value in headers:
            if name == b"modal-key":
                keys.append(value)
            elif name == b"modal-secret":
                values.append(value)
            elif name == b"proxy-authorization":
                basic.append(value)
        if keys or values or not basic:
            right = len(keys) == len(values) == 1 and self._check(keys[0], values[0])
            return 0 if right else UNAUTHORIZED
        key, secret = _basic(basic[0])
        return 0 if len(basic) == 1 and self._check(key, secret) else PROXY_AUTHENTICATION_REQUIRED

    def _check(self, key: bytes, secret: bytes) -> bool:
        """Takes the same time whether the id or the secret is wrong."""
        row = self._tokens.get(key.decode("latin-1"))
        right = hmac.compare_digest(_hash(secret), _NO_HASH if row is None else row.secret_hash)
        if not right or row is None:
            return False
        self._note_use(row)
        return True

    def _note_use(self, row: ProxyTokenRow) -> None:
        now = time.time()
        if now - row.used_at < USED_STEP:
            return
        self._tokens[row.token_id] = row._replace(used_at=now)
        task = asyncio.ensure_future(self._store.used(row.token_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _basic(value: bytes) -> tuple[bytes, bytes]:
    """User and password of an `Authorization: Basic` value; empty where it is none."""
    scheme, _space, encoded = value.partition(b" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == b"basic" else b""
    except binascii.Error:
        decoded = b""
    key, _colon, secret = decoded.partition(b":")
    return key, secret
