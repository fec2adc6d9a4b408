"""The documented scrapers, which drive a browser in their image. Stand-ins: a local site for the addresses in the
programs, a mirror of the browser's download made of Debian's Chromium, and a local Slack behind TLS.

Slow (the image takes minutes and half a gigabyte): set INTERMODAL_SLOW_TESTS=1.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.worker.images import interpreters
from tests.acceptance.conftest import Platform, ProgramFinder, new_platform
from tests.browser_mirror import archive_chromium

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("INTERMODAL_SLOW_TESTS") != "1", reason="slow: set INTERMODAL_SLOW_TESTS=1"),
    pytest.mark.skipif(interpreters.find("3.10") is None, reason="the programs ask for Python 3.10; none is here"),
]

PAGE = b'<html><body><a href="http://modal.com/blog">Blog</a> <a href="/docs">Docs</a><a>none</a></body></html>'
LINKS = ["http://modal.com/blog", "http://modal.com/docs"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_chromium(tmp_path_factory.mktemp("browser"))


class Sites(http.server.BaseHTTPRequestHandler):
    """The scraped site, the browser's mirror and Slack, told apart by what is asked for."""

    mirror: Path
    posted: list[str]

    def do_GET(self) -> None:
        if self.path.endswith(".zip"):
            name = "chromium-linux.zip" if "/chromium/" in self.path else "ffmpeg-linux.zip"
            self.send_response(200)
            self.send_header("Content-Length", str((self.mirror / name).stat().st_size))
            self.end_headers()
            with (self.mirror / name).open("rb") as source:
                shutil.copyfileobj(source, self.wfile)
            return
        self._answer("text/html", PAGE)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.posted.append(f"{self.path} {self.headers['Authorization']} {body}")
        self._answer("application/json", json.dumps({"ok": True}).encode())

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@contextlib.contextmanager
def serving(port: int, handler: type[Sites], tls: ssl.SSLContext | None = None) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("0.0.0.0", port), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def scraping(browser: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, list[str]]]:
    """A platform whose containers find all sites on this machine, and what Slack was told."""
    import trustme

    folder = tmp_path_factory.mktemp("site")
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("slack.com", "www.slack.com", "github.com").configure_cert(tls)
    bundle = folder / "bundle.crt"
    usual = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    bundle.write_bytes(Path(usual).read_bytes() + authority.cert_pem.bytes())
    variables = folder / "env"
    variables.write_text("PLAYWRIGHT_DOWNLOAD_HOST=http://modal.com\nPLAYWRIGHT_SKIP_VALIDATE_HOST_REQUIREMENTS=1\n")
    posted: list[str] = []
    handler = type("TheseSites", (Sites,), {"mirror": browser, "posted": posted})
    with serving(80, handler), serving(443, handler, tls), new_platform() as platform:
        names = ("modal.com", "github.com", "slack.com", "www.slack.com")
        platform.env |= {
            "INTERMODAL_HOST_PORTS": "80,443",
            "INTERMODAL_CONTAINER_HOSTS": " ".join(f"{name}=host-gateway" for name in names),
            "INTERMODAL_CONTAINER_ENV": str(variables),
            "SSL_CERT_FILE": str(bundle),
        }
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            platform.env[name] = str(bundle)
        assert platform.intermodal("up").code == 0
        for secret in ("my-slack-secret", "scraper-slack-secret"):
            made = platform.modal("secret", "create", secret, "SLACK_BOT_TOKEN=xoxb-stand-in")
            assert made.code == 0, made.text
        yield platform, posted


def test_scrape_full(scraping: tuple[Platform, list[str]], program: ProgramFinder) -> None:
    platform, _posted = scraping
    lines = platform.builds("run", program("examples/scrape_full")).splitlines()
    # Both addresses are the same stand-in: its links, once each, printed by main.
    expected = [*LINKS, LINKS[0], "https://github.com/docs"]
    assert sorted(line for line in lines if line.startswith("http")) == sorted(expected)
    assert sum(line.startswith("Links [") for line in lines) == 2


def test_webscraper_posts_what_it_finds(scraping: tuple[Platform, list[str]], program: ProgramFinder) -> None:
    platform, posted = scraping
    posted.clear()
    out = platform.builds("run", program("examples/webscraper"))
    assert sorted(line for line in out.splitlines() if line.startswith("Posting")) == [
        f"Posting {link} to #scraped-links" for link in LINKS
    ]
    assert len(posted) == 2
    assert all(entry.startswith("/api/chat.postMessage Bearer xoxb-stand-in") for entry in posted), posted
