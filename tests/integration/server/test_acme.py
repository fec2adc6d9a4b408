"""Certificates from a real ACME authority: on demand, renewed, through failures, and none for strangers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from intermodal.home import Home
from intermodal.server.acme.issuance import Issuance
from intermodal.server.main import Options, Server
from intermodal.server.store.apps import new_app
from intermodal.server.store.functions import FunctionRow
from intermodal.server.store.migrations import Refused
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources, WebSpec
from tests.handshake import shake_hands
from tests.pebble import EAB_KEY, EAB_KID, Pebble, listens

DOMAIN = "apps.example.com"
HOST = f"team--shop-web.{DOMAIN}"
CUSTOM = "api.example.org"
Start = Callable[..., Any]


@pytest.fixture
def pebble(tmp_path: Path) -> Iterator[Pebble]:
    made = Pebble(tmp_path)
    with made.resolver():
        yield made


def environment(pebble: Pebble, **more: str) -> dict[str, str]:
    return {
        "INTERMODAL_ACME": pebble.url,
        "INTERMODAL_ACME_AGREE": "yes",
        "INTERMODAL_ACME_ROOT": str(pebble.root),
        "INTERMODAL_WEB_DOMAIN": f"https://{DOMAIN}",
        "INTERMODAL_WEB_LISTEN": f"127.0.0.1:{pebble.http_port}",
        "INTERMODAL_WORKSPACE": "team",
        **more,
    }


class Site:
    """A server whose certificates come from Pebble, with one function."""

    def __init__(self, server: Server, pebble: Pebble) -> None:
        assert server.issuance is not None
        self.server, self.pebble = server, pebble
        self.issuance: Issuance = server.issuance
        self.clients: list[Client] = []

    def publish(self, *domains: str) -> None:
        web = WebSpec("asgi", custom_domains=list(domains))
        spec = FunctionSpec("web", "shop", "web", Resources(), Autoscaler(), web=web)
        app = new_app("ap-1", "en-1", "shop", "shop", AppState.DEPLOYED)
        routes = self.server.gateway.routes
        routes.publish(app, [FunctionRow("fu-1", "ap-1", "web", spec, 1, True, "", {}, b"")])

    async def connect(self, host: str | None, context: ssl.SSLContext | None = None) -> Client:
        """A client that verifies, unless `context` is another. Raises ssl.SSLError where it is turned away."""
        if context is None:
            context = ssl.create_default_context(cadata=(await asyncio.to_thread(self.pebble.roots)).decode())
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.pebble.tls_port, ssl=context, server_hostname=host or ""
        )
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def close(self) -> None:
        for client in self.clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        await self.server.close()

    async def serial(self, host: str) -> int:
        return (await self.connect(host)).certificate.serial_number

    def later(self, seconds: float) -> None:
        """The clock of the certificates, from now on."""
        self.issuance.clock = lambda: time.time() + seconds

    def problems(self) -> list[str]:
        return [one["problem"] for one in self.issuance.describe() if one["problem"]]

    async def settled(self) -> None:
        """What was begun is over."""
        while self.issuance._running:
            await asyncio.wait(list(self.issuance._running.values()))
            await asyncio.sleep(0)

    async def look(self) -> None:
        self.issuance.look()
        await self.settled()

    @property
    def place(self) -> Path:
        (found,) = (self.server.home.path / "tls" / "acme").iterdir()
        return found


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        found = writer.get_extra_info("ssl_object").getpeercert(True)
        self.certificate = x509.load_der_x509_certificate(found)

    async def ask(self, host: str) -> str:
        """Whether the gateway knows a name: the status line."""
        self.writer.write(f"GET /_domain?domain={host} HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
        await self.reader.readexactly(length)
        return head.split(b"\r\n")[0].decode()


@pytest.fixture
async def start(pebble: Pebble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """`await start(**variables)`: it is ended by the next one, which has the same state directory."""
    stack = contextlib.AsyncExitStack()

    async def make(domains: tuple[str, ...] = (), **more: str) -> Site:
        await stack.aclose()
        for name, value in environment(pebble, **more).items():
            monkeypatch.setenv(name, value)
        options = Options(listen=[f"tls://127.0.0.1:{pebble.tls_port}"], worker=False)
        server = Server(Home(tmp_path / "home"), options)
        await server.start()
        site = Site(server, pebble)
        stack.push_async_callback(site.close)
        site.publish(*domains)
        await site.look()  # the domain's own, which clients of the platform use, is made at once
        return site

    async with stack:
        yield make


def hook(tmp_path: Path, before: str = "") -> str:
    """A program that changes what Pebble's resolver says, and notes what it was called with."""
    path = tmp_path / "hook"
    path.write_text(
        f"""#!{sys.executable}
import json, os, sys, time, urllib.request
directory = {str(tmp_path)!r}
action, name, value = sys.argv[1:]
with open(directory + "/hook.log", "a") as log:
    log.write(f"{{action}} {{name}} {{value}}\\n")
{before}
what = "set-txt" if action == "add" else "clear-txt"
content = {{"host": name + ".", **({{"value": value}} if action == "add" else {{}})}}
port = open(directory + "/resolver").read()
urllib.request.urlopen(f"http://127.0.0.1:{{port}}/{{what}}", data=json.dumps(content).encode()).read()
"""
    )
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("challenge", ["tls-alpn-01", "http-01"])
async def test_on_demand_for_what_is_served_and_for_nobody_else(start: Start, pebble: Pebble, challenge: str) -> None:
    pebble.strict = True  # and one nonce in five is refused, as it happens
    with pebble.authority():
        site = await start(domains=(CUSTOM, "*.shops.example.org"), INTERMODAL_ACME_CHALLENGE=challenge)
        assert (await site.connect(DOMAIN)).certificate
        first = await site.serial(HOST)
        assert await site.serial(CUSTOM) != first
        assert await site.serial(HOST) == first
        for stranger in (f"nobody.{DOMAIN}", "other.example.net", "a.shops.example.org", "127.0.0.1"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await site.connect(stranger)
        made = sorted(path.name for path in (site.place / "certificates").iterdir())
        assert made == sorted(f"{name}.pem" for name in (DOMAIN, HOST, CUSTOM))
        assert not list((site.place / "orders").iterdir())
        for path in (*site.place.rglob("*.pem"), site.place / "account.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert site.problems() == []
        account = (site.place / "account.json").read_text()

        site = await start(domains=(CUSTOM,), INTERMODAL_ACME_CHALLENGE=challenge)  # nothing is asked for again
        assert await site.serial(HOST) == first
        assert (site.place / "account.json").read_text() == account
        assert site.issuance.challenges.http == {}
        assert site.issuance.challenges.tls == {}


async def test_a_wildcard_by_the_operators_hook(start: Start, pebble: Pebble, tmp_path: Path) -> None:
    (tmp_path / "resolver").write_text(str(pebble.names))
    with pebble.authority():
        site = await start(domains=("*.shops.example.org",), INTERMODAL_ACME_DNS_HOOK=hook(tmp_path))
        serials = {await site.serial(name) for name in (DOMAIN, HOST, f"anything.{DOMAIN}")}
        assert len(serials) == 1
        shop = await site.serial("one.shops.example.org")
        assert shop not in serials
        assert await site.serial("two.shops.example.org") == shop
        with pytest.raises(ssl.SSLError):
            await site.connect("a.two.shops.example.org")
        calls = (tmp_path / "hook.log").read_text().splitlines()
        added = [line.split()[1:] for line in calls if line.startswith("add")]
        removed = [line.split()[1:] for line in calls if line.startswith("remove")]
        assert sorted(added) == sorted(removed)
        assert {name for name, _value in added} == {f"_acme-challenge.{DOMAIN}", "_acme-challenge.shops.example.org"}


async def test_a_renewal_drops_no_connection(start: Start, pebble: Pebble) -> None:
    with pebble.authority():
        site = await start()
        client = await site.connect(HOST)
        assert await client.ask(HOST) == "HTTP/1.1 200 OK"
        certificate = client.certificate
        life = (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds()
        begun = certificate.not_valid_before_utc.timestamp() - time.time()
        site.later(begun + life * 2 / 3 - 60)
        await site.look()
        assert await site.serial(HOST) == certificate.serial_number
        site.later(begun + life * 2 / 3 + 60)
        await site.look()
        assert await site.serial(HOST) != certificate.serial_number
        assert await client.ask(HOST) == "HTTP/1.1 200 OK"  # the connection from before
        renewed = await site.serial(HOST)
        site.later(begun + life * 2 / 3 + 120)
        await site.look()
        assert await site.serial(HOST) == renewed


async def test_what_is_served_no_longer_is_not_renewed(start: Start, pebble: Pebble) -> None:
    with pebble.authority():
        site = await start(domains=(CUSTOM,))
        client = await site.connect(CUSTOM)
        site.publish()
        site.later(client.certificate.not_valid_after_utc.timestamp() - time.time() + 60)
        await site.look()
        assert CUSTOM not in [name for one in site.issuance.describe() for name in one["names"]]
        assert not (site.place / "certificates" / f"{CUSTOM}.pem").exists()


async def test_the_authority_is_away_forgets_the_account_and_is_back(start: Start, pebble: Pebble) -> None:
    """The certificate from before stays in use; a new authority at the same address knows neither account nor order."""
    with pebble.authority():
        site = await start()
        client = await site.connect(HOST)
        roots = pebble.roots()
        account = json.loads((site.place / "account.json").read_text())
    life = client.certificate.not_valid_after_utc.timestamp() - time.time()
    site.later(life * 0.7)
    await site.look()
    told = [problem for problem in site.problems() if HOST in problem]
    assert len(told) == 1
    assert "no new certificate" in told[0]
    assert "cannot be reached" in told[0]
    assert "stays in use" in told[0]
    context = ssl.create_default_context(cadata=roots.decode())
    assert (await site.connect(HOST, context)).certificate == client.certificate
    order = json.loads((site.place / "orders" / f"{HOST}.json").read_text())
    await site.look()  # it is not tried again at once
    assert json.loads((site.place / "orders" / f"{HOST}.json").read_text()) == order
    with pebble.authority():
        site.later(life * 0.7 + 3600)
        await site.look()
        again = await site.connect(HOST)
        assert again.certificate != client.certificate
        assert site.problems() == []
        after = json.loads((site.place / "account.json").read_text())
        assert after["key"] == account["key"]
        assert after["url"] != account["url"]


async def test_a_name_that_leads_elsewhere(start: Start, pebble: Pebble, caplog: pytest.LogCaptureFixture) -> None:
    pebble.lead(CUSTOM, "127.0.0.99")
    with pebble.authority():
        site = await start(domains=(CUSTOM,))
        with pytest.raises(ssl.SSLError):
            await site.connect(CUSTOM)
        (problem,) = site.problems()
        assert f"no certificate yet for {CUSTOM}" in problem
        assert "tls-alpn-01" in problem
        assert problem in caplog.text
        with pytest.raises(ssl.SSLError):  # and the next visitor makes no new order
            await site.connect(CUSTOM)
        order = site.issuance._orders.get((CUSTOM,))
        assert order.failures == 1
        site.later(order.again - time.time() + 1)
        await site.look()
        assert order.failures == 2
        assert "http-01" in site.problems()[0]  # the other way was tried
        pebble.lead(CUSTOM, "127.0.0.1")
        await site.look()
        assert order.failures == 2  # it has to wait
        site = await start(domains=(CUSTOM,))
        site.later(order.failed - time.time() + 310)  # a new start may try earlier
        assert site.issuance.clock() < order.again
        assert await site.serial(CUSTOM)
        assert site.problems() == []


async def test_tunnels_show_it_too(start: Start, pebble: Pebble) -> None:
    """Once it is there: until then the state directory's own authority vouches for them."""
    with pebble.authority():
        site = await start()
        shown = site.server.certificates.get(["box.example.com"])
        wild = site.server.certificates.get(["*.tunnels.example.com"])  # nothing can be had for it without a hook
        context = shown.new_context()
        before = site.server.certificates.describe()
        assert ["box.example.com"] in [one["names"] for one in before]
        await site.look()
        assert shown.path.is_relative_to(site.place)
        assert not wild.path.is_relative_to(site.place)
        roots = ssl.create_default_context(cadata=pebble.roots().decode())
        shake_hands(context, roots, "box.example.com")
        site.server.certificates.refresh()
        assert shown.path.is_relative_to(site.place)

        site = await start()
        assert site.server.certificates.get(["box.example.com"]).path.is_relative_to(site.place)


async def test_an_account_that_needs_a_binding(start: Start, pebble: Pebble) -> None:
    pebble.bound = True
    with pebble.authority():
        site = await start()
        assert "INTERMODAL_ACME_EAB_KID" in site.problems()[0]
        site = await start(INTERMODAL_ACME_EAB_KID=EAB_KID, INTERMODAL_ACME_EAB_HMAC_KEY=EAB_KEY)
        site.later(400)
        assert await site.serial(HOST)


async def test_it_needs_a_port_where_the_authority_can_look(start: Start) -> None:
    with pytest.raises(Refused, match="INTERMODAL_ACME needs a port"):
        await start(INTERMODAL_WEB_LISTEN="off", INTERMODAL_ACME_CHALLENGE="http-01")


def test_kill_in_the_middle_of_an_order(pebble: Pebble, tmp_path: Path) -> None:
    """The next server goes on with the same order, for the same key, and cleans up."""
    (tmp_path / "resolver").write_text(str(pebble.names))
    os.mkfifo(tmp_path / "reached")
    os.mkfifo(tmp_path / "never")
    stop = "if action == 'add' and not os.path.exists(directory + '/go'):\n"
    stop += "    open(directory + '/reached', 'w').close()\n    open(directory + '/never').read()"
    home = tmp_path / "home"
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("INTERMODAL_", "MODAL_"))},
        **environment(pebble, INTERMODAL_ACME_DNS_HOOK=hook(tmp_path, stop), INTERMODAL_HOME=str(home)),
    }
    command = [sys.executable, "-m", "intermodal.server", "--foreground", "--no-worker"]
    command += ["--listen", f"tls://127.0.0.1:{pebble.tls_port}"]

    said: list[str] = []

    @contextlib.contextmanager
    def server() -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            said.append(process.communicate(timeout=200)[0])

    with pebble.authority():
        with server() as process:
            open(tmp_path / "reached").close()  # the hook is at work
            (path,) = (home / "tls" / "acme").glob("*/orders/*.json")
            before = json.loads(path.read_text())
            process.kill()
            process.wait()
        (tmp_path / "go").touch()
        open(tmp_path / "never", "w").close()  # the hook of before ends
        with server() as process:
            listens(pebble.tls_port, process, "the server")
            context = ssl.create_default_context(cadata=pebble.roots().decode())
            with socket.create_connection(("127.0.0.1", pebble.tls_port)) as plain:
                with context.wrap_socket(plain, server_hostname=DOMAIN) as secure:
                    found = x509.load_der_x509_certificate(secure.getpeercert(True) or b"")
        assert before["url"]
        assert found.public_key() == load_pem_private_key(before["key"].encode(), None).public_key()
        assert f"going on with the order {before['url']}" in said[1]
        calls = (tmp_path / "hook.log").read_text().splitlines()
        added = {line[4:] for line in calls if line.startswith("add ")}
        assert added == {line[7:] for line in calls if line.startswith("remove ")}
        assert not list(path.parent.iterdir())
