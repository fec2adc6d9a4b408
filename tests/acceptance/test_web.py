"""Web functions through the real command line, with clients that others wrote."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = Path(__file__).with_name("programs") / "web_app.py"


class Site:
    """A deployed program's addresses, reached by way of 127.0.0.1: not every machine resolves *.localhost."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls

    def base(self, name: str) -> str:
        port = self.urls[name].rpartition(":")[2]
        return f"http://127.0.0.1:{port}/_web/{self.urls[name][7:].partition('.')[0]}"

    def get(self, name: str, path: str = "", **options: object) -> httpx.Response:
        return httpx.get(self.base(name) + path, timeout=60, **options)  # type: ignore[arg-type]


def urls_of(text: str) -> dict[str, str]:
    """Function name to address, as the command line shows them."""
    return dict(re.findall(r"Created web (?:function|endpoint for) (\S+?)\.? => (http\S+)", text))


@pytest.fixture(scope="module")
def site(platform: Platform) -> Iterator[Site]:
    ran = platform.modal("deploy", PROGRAM)
    assert ran.code == 0, ran.text
    yield Site(urls_of(ran.text))
    assert platform.modal("app", "stop", "web-app").code == 0


def test_an_endpoint(site: Site) -> None:
    assert site.get("square", "/?x=42").json() == {"square": 1764}
    wrong = site.get("square", "/?x=many")
    assert wrong.status_code == 422
    assert "x" in wrong.text
    assert site.get("square", "/docs").status_code == 200


def test_the_host_form_and_what_is_unknown(site: Site) -> None:
    url = site.urls["square"]
    host = url[7:]
    assert httpx.get(f"http://127.0.0.1:{host.rpartition(':')[2]}/?x=3", headers={"Host": host}).json() == {"square": 9}
    unknown = httpx.get(f"http://127.0.0.1:{host.rpartition(':')[2]}/", headers={"Host": "nobody--here.localhost"})
    assert unknown.status_code == 404
    assert "square" not in unknown.text


def test_an_asgi_app(site: Site) -> None:
    assert site.get("web").json()["hello"] == "lifespan"
    echoed = httpx.post(site.base("web") + "/echo", content=b"x" * 3_000_000, timeout=60)
    assert echoed.json() == {"size": 3_000_000}
    crashed = site.get("web", "/boom")
    assert crashed.status_code == 500


def test_events_arrive_one_by_one(site: Site) -> None:
    with httpx.stream("GET", site.base("web") + "/events", timeout=60) as response:
        lines = response.iter_lines()
        first = next(lines)
        assert first == "data: 0"
        # The app waits for this request before it sends more: a buffered stream would never go on.
        assert site.get("web", "/go-on").status_code == 200
        assert [line for line in lines if line] == ["data: 1"]


def test_a_websocket(site: Site) -> None:
    async def talk() -> list[object]:
        async with connect(site.base("web").replace("http", "ws") + "/ws") as socket:
            await socket.send("hello")
            text = await socket.recv()
            await socket.send(b"\x00\x01" * 400_000)
            data = await socket.recv()
            return [text, data == b"\x00\x01" * 400_000]

    assert asyncio.run(talk()) == ["hello", True]


def test_a_wsgi_app(site: Site) -> None:
    answer = httpx.post(site.base("flask_like") + "/a%20b?q=1", content=b"body", timeout=60)
    assert answer.json() == {"path": "/a b", "query": "q=1", "body": "body", "method": "POST"}
