from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from modal import _endpoint, exception
from modal._client import Client
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppLookup
from modal._protocol.messages.wire import Done
from modal._sync import run

from .calls import Fn
from .stand_in import StandIn
from .test_calls import wait_for


@pytest.fixture
def square(stand_in: StandIn, client: Client) -> Fn:
    stand_in.functions["square"] = lambda x: x * x
    return Fn(client, "square")


@pytest.mark.parametrize("face", ["blocking", "aio"])
def test_a_server_that_comes_back_in_the_middle_of_a_call(square: Fn, stand_in: StandIn, face: str) -> None:
    assert square.remote(1) == 1
    stand_in.hold.clear()

    def restart() -> None:
        wait_for(lambda: len(stand_in.connections) > (0 if face == "blocking" else 1))
        stand_in.die()
        stand_in.hold.set()
        stand_in.start()

    thread = threading.Thread(target=restart)
    thread.start()
    assert (square.remote(5) if face == "blocking" else asyncio.run(square.remote.aio(5))) == 25
    thread.join()


def test_a_cut_call_runs_once(square: Fn, stand_in: StandIn) -> None:
    stand_in.die_after = 1
    assert square.remote(6) == 36
    assert list(stand_in.runs.values()) == [1]
    assert len(stand_in.hellos) >= 2


def test_a_generator_goes_on_where_it_was(stand_in: StandIn, client: Client) -> None:
    stand_in.functions["count"] = lambda n: iter(range(n))
    fn = Fn(client, "count")
    items = fn.remote_gen(5000)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    stand_in.cut_now()
    assert list(items) == list(range(3, 5000))
    assert [message.resume for message in stand_in.opened] == [False, True]
    assert 3 <= stand_in.opened[1].yields_seen < 5000
    stand_in.die_after = 5

    async def main() -> list[Any]:
        return [item async for item in fn.remote_gen.aio(20)]

    assert asyncio.run(main()) == list(range(20))


def test_a_map_over_a_restart_that_forgets_everything(square: Fn, stand_in: StandIn) -> None:
    results = square.map(range(5000))
    assert [next(results) for _ in range(10)] == [n * n for n in range(10)]
    stand_in.die()
    stand_in.outputs.clear()
    thread = threading.Timer(0.1, stand_in.start)
    thread.start()
    assert list(results) == [n * n for n in range(10, 5000)]
    thread.join()
    assert stand_in.opened[-1].resume


def test_a_stale_pooled_connection_is_replaced(square: Fn, stand_in: StandIn) -> None:
    assert square.remote(1) == 1
    stand_in.cut_now()
    assert square.remote(2) == 4
    assert asyncio.run(square.remote.aio(3)) == 9


def test_a_connection_that_ends_right_after_its_last_answer(stand_in: StandIn, client: Client) -> None:
    for _ in range(5):
        run(client.request(AppLookup("x"), Done))
        stand_in.cut_now()
        run(client.request(AppLookup("x"), Done))


def test_the_user_hears_of_an_outage(
    square: Fn, stand_in: StandIn, events: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_endpoint, "NOTICE_AFTER", 0.05)
    assert square.remote(1) == 1
    stand_in.die()

    def restart() -> None:
        wait_for(lambda: any(kind == "notice" for kind, _text in events))
        stand_in.start()

    thread = threading.Thread(target=restart)
    thread.start()
    assert square.remote(2) == 4
    thread.join()
    notices = [text for kind, text in events if kind == "notice"]
    assert len(notices) == 2
    assert "does not answer; waiting up to 5 min" in notices[0]
    assert notices[1] == "The server answers again."


def test_patience_ends(square: Fn, stand_in: StandIn, client: Client) -> None:
    assert square.remote(1) == 1
    stand_in.die()
    with pytest.raises(exception.ConnectionError, match=r"Gave up after 0 s.*MODAL_SERVER_URL"):
        run(client.request(AppLookup("x"), Done, patience=0.2))
    stand_in.start()
    assert square.remote(1) == 1


def test_nobody_ever_answered(short_dir: Any) -> None:
    client = Client(f"unix:{short_dir}/nobody.sock")
    with pytest.raises(exception.ConnectionError, match=r"nobody answers at unix:.*MODAL_SERVER_URL"):
        client.hello()
    with pytest.raises(exception.ConnectionError):
        asyncio.run(client.hello.aio())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.AUTH, exception.AuthError),
        (Code.INVALID, exception.InvalidError),
        (Code.NOT_FOUND, exception.NotFoundError),
        (Code.EXECUTION, exception.ExecutionError),
        (Code.REMOTE, exception.RemoteError),
        (Code.TIMEOUT, exception.TimeoutError),
        (Code.EXPIRED, exception.OutputExpiredError),
        (Code.EXHAUSTED, exception.ResourceExhaustedError),
        (Code.TOO_LARGE, exception.RequestSizeError),
        (Code.VERSION, exception.VersionError),
        (Code.CONFLICT, exception.AlreadyExistsError),
        (Code.CANCELLED, exception.RemoteError),
        (Code.INTERNAL, exception.InternalFailure),
    ],
)
def test_faults_become_the_documented_exceptions(client: Client, code: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"this is {code}") as caught:
        run(client.request(AppLookup(code), Done))
    assert type(caught.value) is kind
    with pytest.raises(kind):
        asyncio.run(client.request(AppLookup(code), Done))


def test_a_refused_greeting(stand_in: StandIn) -> None:
    client = Client(stand_in.address, "ak-1", "as-1")
    stand_in.refuse = Fault(Code.AUTH, "the token is unknown")
    with pytest.raises(exception.AuthError, match="the token is unknown"):
        client.hello()
    with pytest.raises(exception.AuthError):
        asyncio.run(client.hello.aio())
    stand_in.refuse = None
    client.hello()
    hello = stand_in.hellos[-1]
    assert (hello.role, hello.token_id, hello.token_secret) == ("client", "ak-1", "as-1")
    client.close()


def test_a_closed_client(client: Client) -> None:
    client.hello()
    assert not client.is_closed()
    client.close()
    assert client.is_closed()
    with pytest.raises(exception.ClientClosed):
        client.hello()
    with pytest.raises(exception.ClientClosed):
        Fn(client, "f").remote()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(square: Fn) -> None:
    assert square.remote(1) == 1
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if [square.remote(n) for n in range(20)] == [n * n for n in range(20)] else 1)
        finally:
            os._exit(2)
    assert [square.remote(n) for n in range(20)] == [n * n for n in range(20)]
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
