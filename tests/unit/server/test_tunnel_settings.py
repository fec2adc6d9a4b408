"""Where tunnels are reachable, by environment variables."""

from __future__ import annotations

import pytest

from intermodal.server.store.migrations import Refused
from intermodal.server.tunnels import settings as module
from intermodal.server.tunnels.settings import NAMES, TunnelSettings, read_settings


@pytest.mark.parametrize("known", [True, False])
def test_on_one_machine(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    """Names, where programs of this machine can resolve them."""
    monkeypatch.setattr(module, "_resolves", lambda _name: known)
    found = read_settings({})
    assert found == TunnelSettings(NAMES if known else "localhost", named=known)
    assert found.listen == "127.0.0.1"
    assert "localhost" in found.certificate_names


@pytest.mark.parametrize(
    ("host", "named", "names"),
    [
        ("*.Tunnels.example.com", True, ["*.tunnels.example.com"]),
        ("box.example.com", False, ["box.example.com"]),
        ("192.0.2.7", False, ["192.0.2.7"]),
        ("2001:db8::7", False, ["2001:db8::7"]),
        ("localhost", False, ["localhost", f"*.{NAMES}", "127.0.0.1", "::1"]),
        (f"*.{NAMES}", True, ["localhost", f"*.{NAMES}", "127.0.0.1", "::1"]),
    ],
)
def test_hosts(host: str, named: bool, names: list[str]) -> None:
    found = read_settings({"INTERMODAL_TUNNEL_HOST": host})
    assert found.named == named
    assert found.certificate_names == names


@pytest.mark.parametrize(
    ("text", "listen", "port", "fixed"),
    [
        ("0.0.0.0", "0.0.0.0", 7724, False),
        ("0.0.0.0:9000", "0.0.0.0", 9000, True),
        (":9000", "0.0.0.0", 9000, True),
        ("[::]:9000", "::", 9000, True),
        ("[::1]", "::1", 7724, False),
        ("127.0.0.1:0", "127.0.0.1", 0, False),
    ],
)
def test_where_to_listen(text: str, listen: str, port: int, fixed: bool) -> None:
    found = read_settings({"INTERMODAL_TUNNEL_LISTEN": text, "INTERMODAL_TUNNEL_HOST": "localhost"})
    assert (found.listen, found.port, found.fixed) == (listen, port, fixed)


def test_ports() -> None:
    found = read_settings({"INTERMODAL_TUNNEL_PORTS": "20000-20099", "INTERMODAL_TUNNEL_HOST": "localhost"})
    assert (found.first, found.last) == (20000, 20099)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("INTERMODAL_TUNNEL_PORTS", "20000"),
        ("INTERMODAL_TUNNEL_PORTS", "2-1"),
        ("INTERMODAL_TUNNEL_PORTS", "1-70000"),
        ("INTERMODAL_TUNNEL_LISTEN", "0.0.0.0:http"),
        ("INTERMODAL_TUNNEL_LISTEN", "0.0.0.0:70000"),
        ("INTERMODAL_TUNNEL_HOST", "https://box"),
        ("INTERMODAL_TUNNEL_HOST", "box:8000"),
        ("INTERMODAL_TUNNEL_HOST", "*."),
    ],
)
def test_mistakes_name_the_variable(variable: str, text: str) -> None:
    with pytest.raises(Refused, match=variable):
        read_settings({"INTERMODAL_TUNNEL_HOST": "localhost", variable: text})
