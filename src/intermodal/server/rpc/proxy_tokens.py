"""Proxy auth tokens on the wire."""

from __future__ import annotations

from intermodal.server.services.proxy_tokens import ProxyTokens
from modal._protocol.aio import Connection, Handlers
from modal._protocol.messages.proxy import (
    ProxyToken,
    ProxyTokenCreate,
    ProxyTokenInfo,
    ProxyTokenList,
    ProxyTokenRevoke,
    ProxyTokensKnown,
)
from modal._protocol.messages.wire import Done


class ProxyTokenHandlers:
    def __init__(self, tokens: ProxyTokens) -> None:
        self._tokens = tokens

    def register(self, handlers: Handlers) -> None:
        handlers.unary(ProxyTokenCreate)(self.create)
        handlers.unary(ProxyTokenList)(self.list)
        handlers.unary(ProxyTokenRevoke)(self.revoke)

    async def create(self, connection: Connection, message: ProxyTokenCreate) -> ProxyToken:
        return ProxyToken(*await self._tokens.create(message.note))

    async def list(self, connection: Connection, message: ProxyTokenList) -> ProxyTokensKnown:
        return ProxyTokensKnown(
            [ProxyTokenInfo(row.token_id, row.note, row.created_at, row.used_at) for row in self._tokens.all]
        )

    async def revoke(self, connection: Connection, message: ProxyTokenRevoke) -> Done:
        await self._tokens.revoke(message.token_id)
        return Done()
