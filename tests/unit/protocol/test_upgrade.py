"""The HTTP upgrade, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal._protocol import upgrade
from modal._protocol.address import Address
from modal._protocol.errors import ProtocolError, Unreachable
from modal._protocol.frames import Kind, pack

WHERE = Address("tls", "example.test", 443)


def test_a_request_is_recognised_at_its_last_byte() -> None:
    request = upgrade.request_head(WHERE)
    for at in range(len(request)):
        assert upgrade.classify(request[:at]) == (upgrade.MORE, 0)
    assert upgrade.classify(request + b"rest") == (upgrade.UPGRADE, len(request))


def test_an_answer_is_recognised_at_its_last_byte() -> None:
    for at in range(len(upgrade.ACCEPTED)):
        assert upgrade.read_answer(upgrade.ACCEPTED[:at], WHERE) == 0
    assert upgrade.read_answer(upgrade.ACCEPTED + b"rest", WHERE) == len(upgrade.ACCEPTED)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"POST /_frames HTTP/1.1\r\n", b"GET /_framesx", b"PRI * HTTP/2.0\r\n", b"hello\n",
     b"GET /_frames HTTP/1.1\r\nHost: x\r\n\r\n"],
)  # fmt: skip
def test_other_http_is_for_the_http_side(data: bytes) -> None:
    assert upgrade.classify(data)[0] == upgrade.HTTP


def test_frames_without_http_are_frames() -> None:
    assert upgrade.classify(pack(Kind.HELLO, 1, 0)) == (upgrade.FRAMES, 0)


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="intermodal/9"):
        upgrade.classify(b"GET /_frames HTTP/1.1\r\nUPGRADE: Intermodal/9\r\n\r\n")


def test_an_endless_head_is_refused() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        upgrade.classify(b"GET /_frames HTTP/1.1\r\n" + b"a" * upgrade.MAX_HEAD)
    with pytest.raises(Unreachable):
        upgrade.read_answer(b"HTTP/1.1 101 x\r\n" + b"a" * upgrade.MAX_HEAD, WHERE)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH\r\n"])
def test_a_refusal_names_the_address(answer: bytes) -> None:
    with pytest.raises(Unreachable, match=r"tls://example\.test:443"):
        upgrade.read_answer(answer, WHERE)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"GET /_frames HTTP/1.1\r\n" + rest))
def test_any_bytes_are_classified(data: bytes) -> None:
    try:
        what, begin = upgrade.classify(data)
    except ProtocolError:
        return
    assert what in (upgrade.FRAMES, upgrade.UPGRADE, upgrade.HTTP, upgrade.MORE)
    assert 0 <= begin <= len(data)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"HTTP/1.1 101 x\r\n" + rest))
def test_any_answer_is_read(data: bytes) -> None:
    try:
        assert 0 <= upgrade.read_answer(data, WHERE) <= len(data)
    except Unreachable:
        pass
