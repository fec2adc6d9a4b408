"""Proxy auth tokens, which callers of protected web functions show. Any member of the workspace manages them."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message, Record


class ProxyTokenCreate(Message, type=240):
    """Answered with ProxyToken; the secret is shown this once."""

    note: str = ""


class ProxyToken(Message, type=241):
    token_id: str  # wk-…
    token_secret: str  # ws-…


class ProxyTokenList(Message, type=242):
    """Answered with ProxyTokensKnown."""


class ProxyTokenInfo(Record):
    token_id: str
    note: str
    created_at: float  # seconds since the epoch
    last_used_at: float = 0.0


class ProxyTokensKnown(Message, type=243):
    tokens: List[ProxyTokenInfo]


class ProxyTokenRevoke(Message, type=244):
    """Answered with Done. Fault: not-found."""

    token_id: str
