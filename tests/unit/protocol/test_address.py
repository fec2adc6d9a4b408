"""Addresses: what is allowed, and what is said about the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal._protocol.address import DEFAULT_PORT, Address, parse
from modal._protocol.errors import ProtocolError


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("unix:/run/x.sock", Address("unix", "/run/x.sock")),
        ("unix:///run/x.sock", Address("unix", "/run/x.sock")),
        ("tcp://host:1", Address("tcp", "host", 1)),
        ("tcp://host", Address("tcp", "host", DEFAULT_PORT)),
        ("http://host/", Address("tcp", "host", 80)),
        ("http://host:7722", Address("tcp", "host", 7722)),
        ("https://host", Address("tls", "host", 443)),
        ("https://host:8443/", Address("tls", "host", 8443)),
        ("tls://[::1]:5", Address("tls", "::1", 5)),
        ("tls://[::1]", Address("tls", "::1", DEFAULT_PORT)),
    ],
)
def test_addresses(text: str, wanted: Address) -> None:
    assert parse(text) == wanted
    assert parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:1", "unix:run/x", "unix:", "ftp://host:1", "tcp://", "tcp://:1", "tcp://h:x", "tcp://h:65536",
     "tcp://h:-1", "tcp://h:²", "tcp://::1", "tcp://h:1/path"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ProtocolError, match="address"):
        parse(text)


@given(st.text(max_size=40) | st.text(max_size=20).map(lambda rest: "tcp://" + rest))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        where = parse(text)
    except ProtocolError:
        return
    assert parse(str(where)) == where
