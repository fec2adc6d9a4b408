"""The recipes of docs/web.md, as they stand there, with the real Caddy, nginx and an ACME server.

The gateway without a proxy, with a certificate that it was given or has got itself, must do what it does behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from websockets.asyncio.client import connect

from tests.acceptance.conftest import PATIENCE, ROOT, Platform, new_platform
from tests.pebble import Pebble, listens, running
from tests.ports import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PAGE = ROOT / "docs" / "web.md"
PROGRAM = Path(__file__).with_name("programs") / "behind_a_proxy.py"
DOMAIN = "apps.example.com"
SIZE = 64 << 20  # bytes: more than any buffer on the way


def recipe(language: str) -> str:
    """The one block of this language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    return str(found)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    """A platform that is set up for a proxy in front, with the program deployed."""
    for tool in ("nginx", "caddy", "pebble", "curl"):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            pytest.skip(f"{tool} is not installed: scripts/setup --dev installs it")
    keys = tmp_path_factory.mktemp("keys")
    certificate(keys)
    port, tls = free_port(), free_port()
    options = ("--tls-cert", keys / "fullchain.pem", "--tls-key", keys / "key.pem")
    with serving(port, tls, {"INTERMODAL_WEB_TRUSTED_PROXIES": "127.0.0.1"}, *options) as platform:
        yield Behind(platform, port, tls, keys / "ca.pem")


@contextlib.contextmanager
def serving(port: int, tls: int, env: dict[str, str], *options: str | Path) -> Iterator[Platform]:
    """A platform at these ports, with the program deployed."""
    with new_platform() as platform:
        platform.env |= {
            "INTERMODAL_WEB_DOMAIN": f"https://{DOMAIN}",
            "INTERMODAL_WEB_LISTEN": f"127.0.0.1:{port}",
            "INTERMODAL_WORKSPACE": "Team",
            **env,
        }
        server = platform.start("intermodal", "serve", "--listen", f"https://127.0.0.1:{tls}", *options)
        listens(tls, server, "the server")
        ran = platform.modal("deploy", PROGRAM)
        assert ran.code == 0, ran.text
        assert f"https://team--behind-web.{DOMAIN}" in ran.out
        yield platform


@dataclass
class Behind:
    platform: Platform
    gateway: int  # port
    tls: int  # port of the server with a certificate of its own
    ca: Path  # of that
    host: str = f"team--behind-web.{DOMAIN}"


@dataclass
class Front:
    """A proxy that listens on this machine, and how clients reach it."""

    port: int
    ca: Path
    host: str
    platform: Platform

    def curl(self, path: str, *options: str, host: str = "") -> bytes:
        name = host or self.host
        command = [
            "curl", "-sS", "--max-time", str(PATIENCE), "--cacert", str(self.ca), "--fail-with-body",
            "--resolve", f"{name}:{self.port}:127.0.0.1", *options, f"https://{name}:{self.port}{path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def who(self, *options: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.curl("/who", *options))
        return found


def certificate(directory: Path) -> None:
    """For the domain, by an authority of its own: `ca.pem`, `fullchain.pem` and `key.pem`."""
    authority = trustme.CA()
    made = authority.issue_cert(DOMAIN, f"*.{DOMAIN}")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    made.cert_chain_pems[0].write_to_path(directory / "fullchain.pem")
    made.private_key_pem.write_to_path(directory / "key.pem")


def changed(text: str, *changes: tuple[str, str]) -> str:
    """A recipe on the ports and with the files of a test."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(behind: Behind, directory: Path) -> Iterator[Front]:
    certificate(directory)
    port = free_port()
    server = changed(
        recipe("nginx"),
        ("listen 443", f"listen 127.0.0.1:{port}"),
        (f"/etc/ssl/{DOMAIN}/fullchain.pem", str(directory / "fullchain.pem")),
        (f"/etc/ssl/{DOMAIN}/key.pem", str(directory / "key.pem")),
        ("127.0.0.1:7723", f"127.0.0.1:{behind.gateway}"),
    )
    places = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"{user}daemon off;\npid {directory}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{server}\n}}\n"
    )
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "nginx"
    with running([program, "-c", str(directory / "nginx.conf"), "-p", str(directory)], port):
        yield Front(port, directory / "ca.pem", behind.host, behind.platform)


@contextlib.contextmanager
def caddy(behind: Behind, directory: Path) -> Iterator[Front]:
    """With a real ACME server, which looks at the proxy to see whether it answers for the name."""
    pebble = Pebble(directory)
    port = pebble.tls_port
    text = changed(
        recipe("caddyfile"),
        (
            "{\n\ton_demand_tls",
            f"{{\n\tadmin off\n\thttp_port {pebble.http_port}\n\thttps_port {port}\n"
            f"\tacme_ca {pebble.url}\n\tacme_ca_root {pebble.root}\n\ton_demand_tls",
        ),
        ("127.0.0.1:7723", f"127.0.0.1:{behind.gateway}"),
    )
    (directory / "Caddyfile").write_text(text)
    home = {
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory / "data"),
        "XDG_CONFIG_HOME": str(directory / "config"),
    }
    command = ["caddy", "run", "--config", str(directory / "Caddyfile"), "--adapter", "caddyfile"]
    with pebble.resolver(), pebble.authority(), running(command, port, home):
        (directory / "ca.pem").write_bytes(pebble.roots())
        yield Front(port, directory / "ca.pem", behind.host, behind.platform)


@contextlib.contextmanager
def alone(behind: Behind, _directory: Path) -> Iterator[Front]:
    """No proxy."""
    yield Front(behind.tls, behind.ca, behind.host, behind.platform)


@contextlib.contextmanager
def acme(behind: Behind, directory: Path) -> Iterator[Front]:
    """No proxy either: a server that has its certificates from the authority itself."""
    pebble = Pebble(directory)
    env = {
        "INTERMODAL_ACME": pebble.url,
        "INTERMODAL_ACME_AGREE": "yes",
        "INTERMODAL_ACME_ROOT": str(pebble.root),
    }
    with pebble.resolver(), pebble.authority(), serving(pebble.http_port, pebble.tls_port, env) as platform:
        (directory / "ca.pem").write_bytes(pebble.roots())
        yield Front(pebble.tls_port, directory / "ca.pem", behind.host, platform)


@pytest.fixture(scope="module", params=["alone", "nginx", "caddy", "acme"])
def front(request: pytest.FixtureRequest, behind: Behind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with {"alone": alone, "nginx": nginx, "caddy": caddy, "acme": acme}[request.param](
        behind, tmp_path_factory.mktemp(request.param)
    ) as made:
        yield made


def test_the_client_and_the_scheme_are_the_real_ones(front: Front) -> None:
    claims = ["-H", "X-Forwarded-For: 203.0.113.9", "-H", "X-Forwarded-Proto: http"]
    found = front.who("--interface", "127.0.0.2", *claims)
    assert found["client"] == "127.0.0.2"  # curl's; what it claims itself is not believed
    assert found["scheme"] == "https"


def test_http_2_at_the_edge(front: Front) -> None:
    assert front.curl("/", "--http2", "-o", "/dev/null", "-w", "%{http_version}") == b"2"
    assert front.curl("/", "--http1.1", "-w", " %{http_version}") == b"hello 1.1"


def test_events_are_not_held_back(front: Front) -> None:
    for options in (["--http1.1"], ["--http2"]):
        command = [
            "curl", "-sSN", *options, "--max-time", str(PATIENCE), "--cacert", str(front.ca), "--resolve",
            f"{front.host}:{front.port}:127.0.0.1", f"https://{front.host}:{front.port}/events",
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "data: first\n"
            front.curl("/go")
            assert "data: second" in process.stdout.read()
            assert process.wait(200) == 0


def test_large_bodies(front: Front, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    answer = json.loads(front.curl("/upload", "-T", str(body)))
    assert answer == {"size": SIZE, "sha256": hashlib.sha256(body.read_bytes()).hexdigest()}
    assert front.curl("/download?100", "-o", "/dev/null", "-w", "%{size_download}") == b"100000000"
    large = "x" * 30_000
    assert front.who("-H", f"X-Large: {large}")["headers"]["x-large"] == large  # type: ignore[index]


def test_an_upload_that_is_given_up_ends_its_input(front: Front, behind: Behind) -> None:
    for options in (["--http1.1"], ["--http2"]):
        command = [
            "curl", "-sS", *options, "--cacert", str(front.ca), "--resolve", f"{front.host}:{front.port}:127.0.0.1",
            "-T", "-", f"https://{front.host}:{front.port}/upload",
        ]  # fmt: skip
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(b"x" * 1_000_000)
            process.stdin.flush()
            process.kill()
        assert front.curl("/") == b"hello"


async def test_web_sockets(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.ca))
    url = f"wss://{front.host}:{front.port}/ws"
    async with asyncio.timeout(200):
        async with connect(url, ssl=context, host="127.0.0.1", port=front.port) as socket_:
            for message in ("hello", b"\x00\xff", "x" * 1_000_000):
                await socket_.send(message)
                assert await socket_.recv() == message


def test_the_sdk_speaks_through_it(front: Front, tmp_path: Path) -> None:
    """One port for everything: `modal run` over the proxy, with a token."""
    made = json.loads(front.platform.intermodal("token", "new", "--json").out)
    path = tmp_path / "through.py"
    path.write_text(
        "import modal\napp = modal.App()\n@app.function()\ndef f(x: int): return x * x\n"
        "@app.local_entrypoint()\ndef main(): print(sum(f.map(range(100))))\n"
    )
    env = {
        "MODAL_SERVER_URL": f"https://localhost:{front.port}",
        "MODAL_TOKEN_ID": made["token_id"],
        "MODAL_TOKEN_SECRET": made["token_secret"],
        "SSL_CERT_FILE": str(front.ca),
    }
    # `localhost` has no certificate there: the name is one of the domain, which this machine's resolver must know
    hosts = tmp_path / "sitecustomize.py"
    hosts.write_text(
        "import socket\nreal = socket.getaddrinfo\n"
        f"def local(host, *rest, **more): return real('127.0.0.1' if host == '{DOMAIN}' else host, *rest, **more)\n"
        "socket.getaddrinfo = local\n"
    )
    env |= {"MODAL_SERVER_URL": f"https://{DOMAIN}:{front.port}", "PYTHONPATH": str(tmp_path)}
    ran = front.platform.modal("run", path, env=env)
    assert ran.code == 0, ran.text
    assert "328350" in ran.lines()


@pytest.mark.parametrize("made", [caddy, acme])
def test_no_certificate_for_names_that_lead_nowhere(
    behind: Behind, tmp_path: Path, made: Callable[[Behind, Path], AbstractContextManager[Front]]
) -> None:
    with made(behind, tmp_path) as front:
        assert front.curl("/") == b"hello"
        command = [
            "curl", "-sS", "--cacert", str(front.ca), "--resolve", f"nobody.{DOMAIN}:{front.port}:127.0.0.1",
            f"https://nobody.{DOMAIN}:{front.port}/",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 35, done  # the TLS greeting fails


def test_what_is_wrong_with_certificates_by_acme_is_shown(behind: Behind, tmp_path: Path) -> None:
    """The authority is gone when it is asked for the app's certificate, and the operator hears of it."""
    pebble = Pebble(tmp_path)
    env = {"INTERMODAL_ACME": pebble.url, "INTERMODAL_ACME_AGREE": "yes", "INTERMODAL_ACME_ROOT": str(pebble.root)}
    with serving(pebble.http_port, pebble.tls_port, env) as platform:
        context = ssl.create_default_context()
        with socket.create_connection(("127.0.0.1", pebble.tls_port)) as plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname=behind.host)
        for command in ("status", "doctor"):
            said = platform.intermodal(command).out
            assert f"no certificate yet for {behind.host}: the authority cannot be reached" in said, said
            assert "tried again at" in said
