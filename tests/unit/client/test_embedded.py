from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from modal import _embedded, exception
from modal._client import Client
from modal._endpoint import Endpoint, Patience
from modal._protocol.errors import ConnectionLost, Unreachable


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch):
    """Replace `intermodal up` by a line of Python."""

    def replace(code: str) -> None:
        monkeypatch.setattr(_embedded, "command", lambda: [sys.executable, "-c", code, "up", "--quiet"])

    return replace


def test_the_command() -> None:
    assert _embedded.command() == [sys.executable, "-m", "intermodal", "up", "--quiet"]


def test_a_failed_start_reaches_the_user(says, intermodal_home: Path) -> None:
    says("import sys; print('crun is missing: apt-get install crun', file=sys.stderr); sys.exit(3)")
    client = Client.current()
    try:
        with pytest.raises(exception.ConnectionError, match=r"starting one failed: crun is missing: apt-get install"):
            client.hello()
        with pytest.raises(exception.ConnectionError, match=r"crun is missing"):
            asyncio.run(client.hello.aio())
        says("import sys; sys.exit(4)")
        with pytest.raises(exception.ConnectionError, match=r"it ended with code 4 and said nothing"):
            client.hello()
        says("raise SystemExit('No module named intermodal')")
        with pytest.raises(exception.ConnectionError, match=r"pip install intermodal.*MODAL_SERVER_URL"):
            client.hello()
    finally:
        client.close()
        Client.set_current(None)


def test_a_start_that_starts_nothing(says, intermodal_home: Path) -> None:
    says("pass")
    client = Client.current()
    try:
        with pytest.raises(exception.ConnectionError, match=r"nobody answers.*intermodal status"):
            client.hello()
    finally:
        client.close()
        Client.set_current(None)


def test_a_start_that_does_not_end(says, monkeypatch: pytest.MonkeyPatch) -> None:
    says("import time; time.sleep(60)")
    monkeypatch.setattr(_embedded, "START_SECONDS", 0.2)
    with pytest.raises(exception.ConnectionError, match="did not end within"):
        _embedded.start()


def test_the_child_is_no_part_of_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", "tcp://elsewhere")
    monkeypatch.setenv("INTERMODAL_HOME", "/x")
    environment = _embedded._environment()
    assert "MODAL_SERVER_URL" not in environment
    assert environment["INTERMODAL_HOME"] == "/x"


def test_which_server(monkeypatch: pytest.MonkeyPatch, intermodal_home: Path) -> None:
    def current() -> Client:
        Client.set_current(None)
        return Client.current()

    assert current().server_url == f"unix:{intermodal_home}/server.sock"
    assert Client.current() is Client.current()
    monkeypatch.setenv("MODAL_IS_REMOTE", "1")
    assert current().server_url == "unix:/.intermodal/run/api.sock"
    monkeypatch.setenv("MODAL_SERVER_URL", "https://server.example")
    assert current().server_url.startswith("tls://server.example")
    assert Client.from_credentials("ak-1", "as-1").server_url == current().server_url
    monkeypatch.setenv("MODAL_SERVER_URL", "nonsense")
    with pytest.raises(exception.InvalidError, match=r"server_url: 'nonsense'"):
        current()
    Client.set_current(None)


def test_patience_begins_at_once_and_slows_down() -> None:
    endpoint = Endpoint("unix:/nowhere.sock")
    waiting = Patience(endpoint, 1000.0)
    lost = ConnectionLost("lost")
    delays = [waiting.next(lost) for _ in range(12)]
    assert delays[0] == 0.0
    assert all(0 < delay <= 2.0 for delay in delays[1:])
    assert delays[-1] >= 1.0


def test_a_crashed_embedded_server_is_started_again(tmp_path: Path) -> None:
    socket = tmp_path / "server.sock"
    endpoint = Endpoint(f"unix:{socket}", embedded=True)
    endpoint.welcome = object()  # type: ignore[assignment]  # it has answered before
    endpoint.lost()
    endpoint._lost_at -= 10
    nobody = Unreachable("nobody")
    assert Patience(endpoint, 1000.0).next(nobody) >= 0  # stopped in good order: its socket is gone
    socket.touch()
    waiting = Patience(endpoint, 1000.0)
    assert waiting.next(nobody) == -1.0
    assert waiting.next(nobody) >= 0
