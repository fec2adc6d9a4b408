"""Back-pressure: a slow reader slows its own writer and nobody else; memory stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modal._protocol import aio, blocking
from modal._protocol.frames import Kind, pack
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.wire import Done
from modal._protocol.stream import WINDOW
from tests.integration.protocol.conftest import HELLO, gone


class Source:
    """Sends for ever and counts what has left."""

    def __init__(self) -> None:
        self.sent = 0
        self.handlers = aio.Handlers()
        self.handlers.stream(BlobGet)(self.get)
        self.handlers.fast(Invoke)(lambda connection, stream_id, message: connection.respond(stream_id, Done()))

    async def get(self, connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        while True:
            await stream.send(BlobChunk(b"x" * 10_000))
            self.sent += 10_000


async def stands_still(value: Callable[[], int], least: int = 0) -> int:
    """The value once it no longer changes, and is not below what it must reach."""
    last = -1
    while value() != last or last < least:
        last = value()
        await asyncio.sleep(0.05)
    return last


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_slow_reader_slows_its_own_writer_alone(kind: str, listening: Callable[..., Any]) -> None:
    source = Source()
    place = await listening(kind, source.handlers)
    connection = await aio.connect(place.address, HELLO)
    slow = connection.open(BlobGet("slow"))
    assert await stands_still(lambda: source.sent, WINDOW) <= WINDOW + 10_100
    fast = connection.open(BlobGet("fast"))  # on the same connection
    for _ in range(1000):
        assert await asyncio.wait_for(fast.receive(), 200) is not None
    await asyncio.wait_for(connection.request(Invoke("c", "f", b""), Done), 200)
    before = source.sent
    for _ in range(50):  # 500 kB: credit for as much is given
        await slow.receive()
    assert await stands_still(lambda: source.sent, before + 1) > before
    assert connection.held < 4 * WINDOW
    slow.cancel()
    fast.cancel()
    await gone(connection)


async def test_a_blocking_reader_that_stops_reading_stops_the_writer(listening: Callable[..., Any]) -> None:
    source = Source()
    place = await listening("unix", source.handlers)
    connection = await asyncio.to_thread(blocking.connect, place.address, HELLO)
    stream = connection.open(BlobGet("x"))
    assert await stands_still(lambda: source.sent) <= WINDOW + 10_100
    for _ in range(500):
        await asyncio.to_thread(stream.receive, 200)
    assert source.sent > 4_000_000
    connection.close()


@pytest.mark.parametrize("client", ["aio", "blocking"])
async def test_a_writer_waits_for_a_slow_server(client: str, listening: Callable[..., Any]) -> None:
    go = asyncio.Event()
    handlers = aio.Handlers()

    @handlers.stream(BlobPut)
    async def put(connection: aio.Connection, message: BlobPut, stream: aio.Stream) -> Outputs:
        await go.wait()
        total = 0
        async for item in stream:
            total += len(item.data)  # type: ignore[attr-defined]
        return Outputs([total], [], [])

    place = await listening("unix", handlers)
    sent = 0
    chunk = BlobChunk(b"x" * 100_000)
    if client == "aio":
        connection = await aio.connect(place.address, HELLO)
        stream = connection.open(BlobPut("x", 0))

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await stream.send(chunk)
                sent += 100_000
            stream.end()

        sending = asyncio.ensure_future(send())
        assert await stands_still(lambda: sent) <= WINDOW + 200_000
        go.set()
        await sending
        assert await stream.receive() is None
        assert stream.response == Outputs([10_000_000], [], [])
        await gone(connection)
        return
    wire = await asyncio.to_thread(blocking.connect, place.address, HELLO)
    up = wire.open(BlobPut("x", 0))

    def send_all() -> None:
        nonlocal sent
        for _ in range(100):
            up.send(chunk)
            sent += 100_000
        up.end()
        assert up.receive() is None

    working = asyncio.ensure_future(asyncio.to_thread(send_all))
    assert await stands_still(lambda: sent) <= WINDOW + 200_000
    go.set()
    await working
    assert up.response == Outputs([10_000_000], [], [])
    wire.close()


async def test_a_peer_that_ignores_credit_is_let_go(listening: Callable[..., Any]) -> None:
    handlers = aio.Handlers()

    @handlers.stream(BlobPut)
    async def put(connection: aio.Connection, message: BlobPut, stream: aio.Stream) -> None:
        await asyncio.Event().wait()

    place = await listening("unix", handlers)
    connection = await aio.connect(place.address, HELLO)
    stream = connection.open(BlobPut("x", 0))
    lost = asyncio.get_running_loop().create_future()
    connection.on_close.append(lost.set_result)
    chunk = pack(Kind.ITEM, BlobChunk.TYPE, stream.id, *BlobChunk(b"x" * (1 << 20)).encode())
    for _ in range(100):
        connection.write(chunk)
        await asyncio.sleep(0)
        if connection.closed:
            break
    assert "credit" in str(await asyncio.wait_for(lost, 100))
    assert place.connections[0].held <= aio.MAX_STREAM_HELD


async def test_a_server_may_run_ahead_of_its_clients_without_credit(listening: Callable[..., Any]) -> None:
    """`send_now` is for what is bounded by other means: a client takes that too."""
    handlers = aio.Handlers()

    @handlers.stream(BlobGet)
    async def get(connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        for _ in range(60):
            stream.send_now(BlobChunk(b"x" * (1 << 20)))

    place = await listening("unix", handlers)
    connection = await aio.connect(place.address, HELLO)
    stream = connection.open(BlobGet("x"))
    await stream.wait_ended()
    assert sum([len(item.data) async for item in stream]) == 60 << 20  # type: ignore[attr-defined]
    assert connection.held == 0
    await gone(connection)
