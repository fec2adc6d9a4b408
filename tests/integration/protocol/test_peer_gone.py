"""Peers that die, hang or go silent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modal._protocol import aio, blocking, transport, upgrade
from modal._protocol.errors import ConnectionLost, Unreachable
from modal._protocol.frames import VERSION_MAX, VERSION_MIN, Kind, pack
from modal._protocol.messages.call import BlobGet
from modal._protocol.messages.wire import Done, Hello, Welcome
from tests.integration.protocol.conftest import HELLO, another_program, gone

SERVER = """
import asyncio, sys
from modal._protocol import aio
from modal._protocol.messages.wire import Done, Welcome
from modal._protocol.messages.call import BlobGet

async def main():
    handlers = aio.Handlers()
    @handlers.unary(Done)
    async def never(connection, message):
        await asyncio.Event().wait()
    @handlers.stream(BlobGet)
    async def silent(connection, message, stream):
        await asyncio.Event().wait()
    server = await aio.serve("unix:" + sys.argv[1], lambda connection, hello: Welcome(1), handlers)
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own process, to be killed."""
    path = tmp_path / "s.sock"
    command = [sys.executable, "-c", SERVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield f"unix:{path}", server
        server.kill()


async def test_a_killed_server_is_noticed_at_once(process: tuple[str, subprocess.Popen[str]]) -> None:
    address, server = process
    connection = await aio.connect(address, HELLO)
    asking = [asyncio.ensure_future(connection.request(Done(), Done)) for _ in range(3)]
    receiving = asyncio.ensure_future(connection.open(BlobGet("x")).receive())
    await connection.ping()
    os.kill(server.pid, signal.SIGKILL)
    results = await asyncio.wait_for(asyncio.gather(*asking, receiving, return_exceptions=True), 200)
    assert all(isinstance(result, ConnectionLost) for result in results)
    server.wait()
    with pytest.raises(Unreachable):
        await aio.connect(address, HELLO)


def test_a_killed_server_is_noticed_by_a_blocking_client(process: tuple[str, subprocess.Popen[str]]) -> None:
    address, server = process
    connection = blocking.connect(address, HELLO)
    timer = threading.Timer(0.1, os.kill, (server.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(ConnectionLost):
        connection.request(Done(), Done)
    assert connection.broken
    connection.close()
    timer.join()


async def test_a_killed_client_is_noticed_by_the_server(listening: Callable[..., Any], tmp_path: Path) -> None:
    lost: list[Exception | None] = []
    cancelled = asyncio.Event()
    handlers = aio.Handlers()

    @handlers.unary(Done)
    async def never(connection: aio.Connection, message: Done) -> Done:
        connection.on_close.append(lost.append)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return message

    place = await listening("unix", handlers)
    client = (
        "import sys\nfrom modal._protocol import blocking\nfrom modal._protocol.messages.wire import Done, Hello\n"
        "c = blocking.connect(sys.argv[1], Hello('client', 1, 1, token_secret='open sesame'))\nc.request(Done(), Done)"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", client, place.address)
    while not place.connections or not place.connections[0]._tasks:
        await asyncio.sleep(0.01)
    child.kill()
    await child.wait()
    await asyncio.wait_for(cancelled.wait(), 200)
    assert len(lost) == 1


async def test_a_silent_server_on_tcp_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It greets and then answers nothing, as a machine does whose process hangs."""
    monkeypatch.setattr(transport.FrameTransport.keep_alive, "__defaults__", (0.05,))
    welcome = pack(Kind.WELCOME, Welcome.TYPE, 0, *Welcome(1).encode())

    async with another_program(upgrade.ACCEPTED + welcome, after=b"\r\n\r\n") as address:
        connection = await aio.connect(address, HELLO)
        with pytest.raises(ConnectionLost, match="silent"):
            await asyncio.wait_for(connection.request(Done(), Done), 200)
        monkeypatch.setattr(blocking, "KEEPALIVE_SECONDS", 0.05)
        wire = await asyncio.to_thread(blocking.connect, address, HELLO)
        with pytest.raises(ConnectionLost, match="silent"):
            await asyncio.to_thread(wire.request, Done(), Done)
        wire.close()


async def test_a_long_silence_with_a_live_server_is_no_loss(
    listening: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport.FrameTransport.keep_alive, "__defaults__", (0.5,))
    monkeypatch.setattr(blocking, "KEEPALIVE_SECONDS", 0.5)
    handlers = aio.Handlers()

    @handlers.unary(Done)
    async def slow(connection: aio.Connection, message: Done) -> Done:
        await asyncio.sleep(1.8)  # three pings
        return message

    place = await listening("tcp", handlers)
    connection = await aio.connect(place.address, HELLO)
    assert await connection.request(Done(), Done) == Done()
    wire = await asyncio.to_thread(blocking.connect, place.address, HELLO)
    assert await asyncio.to_thread(wire.request, Done(), Done) == Done()
    wire.close()
    await gone(connection)


async def test_a_client_that_never_greets_is_let_go(
    listening: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "GREETING_SECONDS", 0.05)
    for kind in ("unix", "tcp"):
        place = await listening(kind)
        if kind == "unix":
            reader, writer = await asyncio.open_unix_connection(place.address[len("unix:") :])
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(place.address.rpartition(":")[2]))
        await asyncio.wait_for(reader.read(), 200)
        writer.close()
        await writer.wait_closed()


async def test_close_does_not_wait_for_a_peer_that_reads_nothing(
    listening: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "LINGER_SECONDS", 0.05)
    handlers = aio.Handlers()

    @handlers.stream(BlobGet)
    async def flood(connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        for _ in range(20):
            connection.write(pack(Kind.PONG, 0, 0, b"", b"x" * (1 << 20)))
        await asyncio.Event().wait()

    place = await listening("unix", handlers)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.connect(place.address[len("unix:") :])
        hello = Hello("client", VERSION_MIN, VERSION_MAX, token_secret=HELLO.token_secret)
        deaf.sendall(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))
        deaf.sendall(pack(Kind.REQUEST, BlobGet.TYPE, 1, *BlobGet("x").encode()))
        while not place.connections or not place.connections[0].paused:
            await asyncio.sleep(0.01)
        connection = place.connections[0]
        lost = asyncio.get_running_loop().create_future()
        connection.on_close.append(lost.set_result)
        connection.close()
        await asyncio.wait_for(lost, 100)
