"""API tokens: who may speak to the server from outside. Kept in memory too, so that a greeting waits for no disk."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from intermodal.server.ids import new_id
from intermodal.server.store.tokens import TokenRow, TokenStore
from modal._protocol.errors import Code, Fault

ROLES = ("client", "worker")


class Tokens:
    """Load it with `await tokens.load()`."""

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self._tokens: dict[str, TokenRow] = {}

    async def load(self) -> None:
        self._tokens = {token.token_id: token for token in await self._store.all()}

    @property
    def all(self) -> list[TokenRow]:
        return list(self._tokens.values())

    async def create(self, note: str, role: str) -> tuple[str, str]:
        """A new token: its id and its secret, which is known to nobody afterwards."""
        if role not in ROLES:
            raise Fault(Code.INVALID, f"a token is for one of {', '.join(ROLES)}, not {role!r}")
        token_id = new_id("ak")
        secret = f"as-{secrets.token_urlsafe(32)}"
        row = TokenRow(token_id, _hash(secret), role, note[:200], time.time(), 0.0)
        await self._store.add(row)
        self._tokens[token_id] = row
        return token_id, secret

    async def revoke(self, token_id: str) -> None:
        """Fault: not-found."""
        if not await self._store.delete(token_id):
            raise Fault(Code.NOT_FOUND, f"there is no token {token_id}: see `intermodal token list`")
        self._tokens.pop(token_id, None)

    def check(self, token_id: str, token_secret: str, role: str) -> TokenRow:
        """The token, if it is right and for this role. Fault: auth."""
        if not token_id or not token_secret:
            raise Fault(
                Code.AUTH,
                "this server wants a token: set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token set`. "
                "Its operator makes one with `intermodal token new`",
            )
        row = self._tokens.get(token_id)
        given = _hash(token_secret)
        if not hmac.compare_digest(given, row.secret_hash if row is not None else b"\0" * 32) or row is None:
            raise Fault(Code.AUTH, "the token is not valid here: check MODAL_TOKEN_ID and MODAL_TOKEN_SECRET")
        if row.role != role:
            raise Fault(Code.AUTH, f"the token {token_id} is for a {row.role}, not for a {role}")
        return row

    async def used(self, token_id: str) -> None:
        """Note when it was last used; at most once a minute."""
        row = self._tokens.get(token_id)
        now = time.time()
        if row is not None and now - row.used_at > 60.0:
            self._tokens[token_id] = row._replace(used_at=now)
            await self._store.used(token_id)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
