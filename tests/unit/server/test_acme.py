"""What is decided about certificates by ACME: settings, names, pauses, and what a greeting asks for."""

from __future__ import annotations

import importlib.util
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intermodal.server.acme import backoff
from intermodal.server.acme.issuance import Issuance
from intermodal.server.acme.order import Orders, file_name
from intermodal.server.acme.settings import AcmeSettings, is_public, read_settings
from intermodal.server.store.migrations import Refused
from intermodal.server.tls.greeting import Greeting, Short, parse

AGREED = {"INTERMODAL_ACME": "letsencrypt", "INTERMODAL_ACME_AGREE": "yes"}


def hello(name: str | None, protocols: list[str]) -> bytes:
    """What a real client says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    out = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


# -- greetings
@pytest.mark.parametrize(
    ("name", "protocols"),
    [("Api.Example.com", ["h2", "http/1.1"]), ("a.example", ["acme-tls/1"]), (None, []), ("x.example", [])],
)
def test_what_a_real_client_asks_for(name: str | None, protocols: list[str]) -> None:
    assert parse(hello(name, protocols)) == Greeting((name or "").lower(), tuple(protocols))


def test_a_greeting_in_pieces() -> None:
    """However it comes, it is understood when it is whole, and what is needed until then is never too much."""
    data = hello("a.example", ["h2"])
    body = data[5:]
    split = b"".join(data[:3] + len(part).to_bytes(2) + part for part in (body[:3], body[3:90], body[90:]))
    for whole in (data, split):
        for size in range(len(whole)):
            with pytest.raises(Short) as short:
                parse(whole[:size])
            assert size < short.value.needed <= len(whole)
        assert parse(whole + b"more").name == "a.example"


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_a_broken_greeting_is_none(junk: bytes, at: int, byte: int) -> None:
    data = bytearray(hello("a.example", ["h2"]))
    data[at % len(data)] = byte
    for broken in (junk, bytes(data), b"\x16\x03\x01" + junk):
        try:
            found = parse(broken)
        except (Short, ValueError):
            continue
        assert isinstance(found, Greeting)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"\x15\x03\x01\x00\x02\x01\x00", b"\x16\x03\x01\x00\x00", b"\x80"]
)
def test_no_greeting(data: bytes) -> None:
    with pytest.raises(ValueError, match="no TLS"):
        parse(data)


# -- settings
def test_off_unless_it_is_turned_on() -> None:
    assert read_settings({}) is None
    assert read_settings({"INTERMODAL_ACME": "off"}) is None
    found = read_settings(AGREED)
    assert found is not None
    assert found.directory == "https://acme-v02.api.letsencrypt.org/directory"
    assert found.challenges == ("tls-alpn-01", "http-01")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"INTERMODAL_ACME_AGREE": ""}, "INTERMODAL_ACME_AGREE=yes"),
        ({"INTERMODAL_ACME": "http://ca.example/dir"}, "https:// URL"),
        ({"INTERMODAL_ACME_CHALLENGE": "dns-01"}, "INTERMODAL_ACME_DNS_HOOK"),
        ({"INTERMODAL_ACME_DNS_HOOK": "/no/such/program"}, "no program that can be run"),
        ({"INTERMODAL_ACME_ROOT": "/no/such/file"}, "is no file"),
        ({"INTERMODAL_ACME_EAB_KID": "a"}, "together"),
        ({"INTERMODAL_ACME_EAB_KID": "a", "INTERMODAL_ACME_EAB_HMAC_KEY": "not base64!"}, "base64url"),
        ({"INTERMODAL_ACME_HOSTS": "a.example.com, localhost"}, "'localhost' is no host name"),
        ({"INTERMODAL_ACME_HOSTS": "*.example.com"}, "no host name"),
    ],
)
def test_what_cannot_be_is_refused_with_the_variable(variables: dict[str, str], text: str) -> None:
    with pytest.raises(Refused, match=text.replace("*", r"\*")):
        read_settings({**AGREED, **variables})


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(Refused, match=r"pip install 'intermodal\[acme\]'"):
        read_settings(AGREED)


@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "a.localhost", "127.0.0.1", "::1", "", "a..b", "*.*.example", "ex.example.", "-a.example"),
        *("../x.example", "a/b.example", "a\0.example", "under_score.example", "x" * 64 + ".example"),
    ],
)
def test_names_that_no_authority_knows(name: str) -> None:
    assert not is_public(name)


# -- names
def issuance(directory: Path, served: dict[str, str], hook: str = "") -> Issuance:
    settings = AcmeSettings("https://ca.example/dir", hook=hook, hosts=("server.example.net",))
    return Issuance(directory, settings, lambda host: served.get(host, ""), "apps.example.com")


def test_which_certificate_a_host_needs(tmp_path: Path) -> None:
    served = {
        "a.apps.example.com": "a.apps.example.com",
        "api.example.org": "api.example.org",
        "one.shop.example.org": "*.shop.example.org",
        "deep.one.shop.example.org": "*.shop.example.org",
    }
    without = issuance(tmp_path, served)
    assert {host: without._names(host) for host in served} == {
        "a.apps.example.com": ("a.apps.example.com",),
        "api.example.org": ("api.example.org",),
        "one.shop.example.org": (),  # visitors could make up any number of them
        "deep.one.shop.example.org": (),
    }
    assert without._names("apps.example.com") == ("apps.example.com",)
    assert without._names("server.example.net") == ("server.example.net",)
    assert without._names("b.apps.example.com") == ()
    hooked = issuance(tmp_path, served, "/bin/true")
    wild = ("*.apps.example.com", "apps.example.com")
    assert hooked._names("a.apps.example.com") == hooked._names("apps.example.com") == wild
    assert hooked._names("api.example.org") == ("api.example.org",)
    assert hooked._names("one.shop.example.org") == ("*.shop.example.org",)
    assert hooked._names("deep.one.shop.example.org") == ()
    assert hooked._names("b.apps.example.com") == ()


def test_an_order_is_read_again_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    orders.open()
    order = orders.get(("*.example.com", "example.com"))
    order.url, order.failures, order.records = "https://ca.example/order/1", 3, [["_acme-challenge.example.com", "x"]]
    orders.save(order)
    (tmp_path / "b.example.json").write_text('{"names": ["b.example"], "key": ')
    again = Orders(tmp_path)
    again.open()
    assert again.all() == [order]
    assert [path.name for path in tmp_path.iterdir()] == [f"{file_name(order.names)}.json"]
    again.drop(order)
    assert not list(tmp_path.iterdir())


# -- pauses
def test_pauses_grow_to_a_limit() -> None:
    for kind in (backoff.AWAY, backoff.REJECTED, backoff.LIMITED):
        pauses = [backoff.pause(failures, kind, 0.5) for failures in range(1, 40)]
        assert pauses[0] == kind[0]
        assert pauses == sorted(pauses)
        assert pauses[-1] == kind[1]
        assert backoff.pause(1, kind, 0.0) < kind[0] < backoff.pause(1, kind, 1.0)


def test_a_new_start_tries_earlier_but_not_at_once() -> None:
    assert backoff.after_start(again=50_000.0, failed=1_000.0) == 1_000.0 + backoff.EARLY
    assert backoff.after_start(again=1_010.0, failed=1_000.0) == 1_010.0
