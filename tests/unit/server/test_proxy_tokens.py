"""Who may call a protected web function."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from intermodal.server.services.proxy_tokens import ProxyTokens
from intermodal.server.store.store import Store
from modal._protocol.errors import Code, Fault


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "store.sqlite")
    yield made
    await made.close()


@pytest.fixture
def tokens(store: Store) -> ProxyTokens:
    return ProxyTokens(store.proxy_tokens)


def shown(key: str, secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"modal-key", key.encode()), (b"modal-secret", secret.encode())]


def basic(key: str, secret: str) -> list[tuple[bytes, bytes]]:
    return [(b"proxy-authorization", b"Basic " + base64.b64encode(f"{key}:{secret}".encode()))]


async def test_a_token_opens_and_survives_a_restart(store: Store, tokens: ProxyTokens) -> None:
    key, secret = await tokens.create("ci")
    assert key.startswith("wk-")
    assert secret.startswith("ws-")
    again = ProxyTokens(store.proxy_tokens)
    await again.load()
    for each in (tokens, again):
        assert each.refusal(shown(key, secret)) == 0
        assert each.refusal(basic(key, secret)) == 0
    rows = await store.database.rows("SELECT * FROM proxy_tokens")
    assert secret not in str(rows)
    assert secret.encode() not in b"".join(part for row in rows for part in row if isinstance(part, bytes))


async def test_what_does_not_open(tokens: ProxyTokens) -> None:
    key, secret = await tokens.create("")
    other, other_secret = await tokens.create("")
    refused = [
        [],
        shown(key, other_secret),
        shown(key, ""),
        shown("", secret),
        shown("wk-unknown", secret),
        shown(secret, key),
        shown(key, secret + " "),
        shown(key, secret)[:2],
        shown(key, secret)[::2],
        shown(key, secret) + shown(key, secret),  # twice: which one counts would be a matter of taste
        shown(other, secret) + basic(key, secret),
    ]
    assert [tokens.refusal(headers) for headers in refused] == [401] * len(refused)
    wrong = [
        basic(key, other_secret),
        basic(key, secret) * 2,
        [(b"proxy-authorization", b"Bearer x")],
        [(b"proxy-authorization", b"Basic %%%")],
        [(b"proxy-authorization", b"")],
    ]
    assert [tokens.refusal(headers) for headers in wrong] == [407] * len(wrong)


async def test_revoked_at_once(tokens: ProxyTokens) -> None:
    key, secret = await tokens.create("")
    await tokens.revoke(key)
    assert tokens.refusal(shown(key, secret)) == 401
    assert tokens.all == []
    with pytest.raises(Fault) as caught:
        await tokens.revoke(key)
    assert caught.value.code == Code.NOT_FOUND


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200, deadline=None
)
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"modal-key", b"modal-secret", b"proxy-authorization", b"x"]),
            st.binary(max_size=60) | st.binary(max_size=40).map(lambda raw: b"Basic " + base64.b64encode(raw)),
        ),
        max_size=5,
    )
)
async def test_nothing_else_opens(tokens: ProxyTokens, headers: list[tuple[bytes, bytes]]) -> None:
    assert tokens.refusal(headers) in (401, 407)
