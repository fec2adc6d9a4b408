"""What a program gets from `modal.forward`."""

from __future__ import annotations

import pytest

import modal
from modal._tunnel import Tunnel
from modal.exception import InvalidError


def test_addresses() -> None:
    tunnel = Tunnel("abc.example.com", 443, "", 0)
    assert tunnel.url == "https://abc.example.com"
    assert tunnel.tls_socket == ("abc.example.com", 443)
    with pytest.raises(InvalidError, match="unencrypted=True"):
        tunnel.tcp_socket  # noqa: B018
    plain = Tunnel("localhost", 8443, "localhost", 23447)
    assert plain.url == "https://localhost:8443"
    assert plain.tcp_socket == ("localhost", 23447)
    assert Tunnel("::1", 8443, "", 0).url == "https://[::1]:8443"


def test_only_in_a_container() -> None:
    with pytest.raises(InvalidError, match="runs in one"), modal.forward(8000):
        pass


async def test_only_in_a_container_in_async_code() -> None:
    with pytest.raises(InvalidError, match="runs in one"):
        async with modal.forward(8000):
            pass


@pytest.mark.parametrize("port", [0, 65536, -1, "8000", 80.0, True, None])
def test_what_is_no_port(port: object) -> None:
    with pytest.raises(InvalidError, match="from 1 to 65535"), modal.forward(port):  # type: ignore[arg-type]
        pass
