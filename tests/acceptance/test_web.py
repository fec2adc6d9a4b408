"""Web functions through the real command line, with clients that others wrote."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.acceptance.conftest import PATIENCE, Platform, until

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = Path(__file__).with_name("programs") / "web_app.py"


class Site:
    """A deployed program's addresses, reached by way of 127.0.0.1: not every machine resolves *.localhost."""

    blocked: Future[httpx.Response]

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls

    def base(self, name: str) -> str:
        port = self.urls[name].rpartition(":")[2]
        return f"http://127.0.0.1:{port}/_web/{self.urls[name][7:].partition('.')[0]}"

    def get(self, name: str, path: str = "", **options: object) -> httpx.Response:
        return httpx.get(self.base(name) + path, timeout=PATIENCE, **options)  # type: ignore[arg-type]


def urls_of(text: str) -> dict[str, str]:
    """Function name to address, as the command line shows them."""
    return dict(re.findall(r"Created web (?:function|endpoint for) (\S+?)\.? => (http\S+)", text))


@pytest.fixture(scope="module")
def site(platform: Platform) -> Iterator[Site]:
    ran = platform.modal("deploy", PROGRAM)
    assert ran.code == 0, ran.text
    with ThreadPoolExecutor(1) as pool:
        found = Site(urls_of(ran.text))
        found.blocked = pool.submit(found.get, "hangs", "/block")  # while the other tests run
        yield found
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


def test_a_web_server_and_methods_with_parameters(site: Site) -> None:
    listing = site.get("files", "/etc/")
    assert listing.status_code == 200
    assert "hostname" in listing.text or "passwd" in listing.text
    assert site.get("Store.shelf", "/?name=books&number=3").json() == {"name": "books", "number": 3}
    assert site.get("Store.shelf").json() == {"name": "all", "number": 1}
    wrong = site.get("Store.shelf", "/?number=many")
    assert wrong.status_code == 400
    assert "number" in wrong.text


def test_what_cannot_start_is_said(site: Site) -> None:
    failed = site.get("broken")
    assert failed.status_code == 503
    assert "could not start" in failed.text
    assert "secret detail" not in failed.text  # a deployed app tells strangers nothing


def test_a_redeployment_fails_no_request(platform: Platform, site: Site) -> None:
    """Requests go on without a pause while the app is deployed again in another form."""
    statuses: list[int] = []
    versions: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                answer = client.get(site.base("web") + "/version")
                statuses.append(answer.status_code)
                versions.add(answer.text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        again = platform.modal("deploy", PROGRAM, env={"WEB_APP_VERSION": "two"})
        until(lambda: "two" in str(versions))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert again.code == 0, again.text
    assert set(statuses) == {200}
    assert versions == {'"one"', '"two"'}


def test_an_app_that_blocks_its_event_loop(site: Site) -> None:
    """504 after the function's time limit, and it serves again."""
    answer = site.blocked.result(PATIENCE)
    assert answer.status_code == 504
    assert "did not finish in time" in answer.text
    assert site.get("hangs", "/").text == "ok"


def test_a_container_that_dies_in_the_middle(platform: Platform, site: Site) -> None:
    with (
        pytest.raises(httpx.RemoteProtocolError),
        httpx.stream("GET", site.base("web") + "/die", timeout=60) as response,
    ):
        parts = response.iter_bytes()
        assert next(parts) == b"begun"
        next(parts)
    assert site.get("web", "/version").status_code == 200  # another one is started
    before_start = site.get("web", "/die-at-once")
    assert before_start.status_code == 502
    assert "ended" in before_start.text


def test_a_killed_server_comes_back_at_the_same_addresses(platform: Platform, site: Site) -> None:
    """Containers go on, and their links to the gateway are made anew."""
    assert site.get("web", "/version").status_code == 200
    os.kill(int(platform.status()["pid"]), signal.SIGKILL)
    up = platform.intermodal("up")
    assert up.code == 0, up.text
    assert site.get("web", "/version").status_code == 200
    assert site.get("files", "/etc/").status_code == 200
