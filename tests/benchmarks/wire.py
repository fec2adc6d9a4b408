"""What the wire costs, beside a bare echo of bytes over the same sockets in the same run.

    python tests/benchmarks/wire.py [--quick]

Prints one JSON object a row: the name, the figure, its unit, and the ratio to the bare echo.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import uvloop

from modal._protocol import aio, blocking
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.wire import Done, Hello, Welcome

HELLO = Hello("client", 1, 1)
MESSAGE = Invoke("fc-ABCDEFGHIJKLMNOPQRSTUVWXYZ", "fu-ABCDEFGHIJKLMNOPQRSTUV", b"x" * 40)
CHUNK = b"x" * (1 << 18)  # bytes
CHUNKS = 400


# -- the server's side ---------------------------------------------------------------------------


def answers() -> aio.Handlers:
    handlers = aio.Handlers()

    @handlers.fast(Invoke)
    def invoke(connection: aio.Connection, stream_id: int, message: Invoke) -> None:
        connection.respond(stream_id, Outputs([0], [0], [message.args]))

    @handlers.unary(Done)
    async def done(connection: aio.Connection, message: Done) -> Done:
        return message

    @handlers.stream(BlobGet)
    async def get(connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        for _ in range(CHUNKS):
            await stream.send(BlobChunk(CHUNK))

    @handlers.stream(BlobPut)
    async def put(connection: aio.Connection, message: BlobPut, stream: aio.Stream) -> Done:
        async for _chunk in stream:
            pass
        return Done()

    return handlers


class Echo(asyncio.Protocol):
    """The bare echo: no frames, no messages."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def serve(folder: str) -> None:
    def greet(connection: aio.Connection, hello: Hello) -> Welcome:
        return Welcome(1)

    loop = asyncio.get_running_loop()
    unix = await aio.serve(f"unix:{folder}/wire.sock", greet, answers())
    tcp = await aio.serve("tcp://127.0.0.1:0", greet, answers())
    bare = await loop.create_unix_server(Echo, f"{folder}/echo.sock")
    print(tcp.sockets[0].getsockname()[1], flush=True)
    async with unix, tcp, bare:
        await asyncio.Event().wait()


# -- the client's side ---------------------------------------------------------------------------


def row(name: str, value: float, unit: str, ratio: float = 0.0) -> None:
    print(
        json.dumps(
            {"name": name, "value": round(value, 2), "unit": unit, **({"ratio": round(ratio, 2)} if ratio else {})}
        )
    )


def round_trips(connection: blocking.Connection, message: object, expect: type, count: int) -> float:
    """Median microseconds of one exchange."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        connection.request(message, expect)  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def bare_round_trips(path: str, count: int) -> float:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)
        data = b"x" * 120
        times = []
        for _ in range(count):
            start = time.perf_counter()
            peer.sendall(data)
            peer.recv(1 << 16)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


async def in_flight(address: str, width: int, count: int) -> float:
    """Requests a second with `width` under way at once."""
    connection = await aio.connect(address, HELLO)

    async def one_after_another() -> None:
        for _ in range(count // width):
            await connection.request(MESSAGE, Outputs)

    start = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(width)))
    took = time.perf_counter() - start
    connection.close()
    return count / took


async def down(address: str) -> float:
    """MB a second from server to client over one stream."""
    connection = await aio.connect(address, HELLO)
    start = time.perf_counter()
    stream = connection.open(BlobGet("vl-x"))
    while await stream.receive_frame() is not None:
        pass
    took = time.perf_counter() - start
    connection.close()
    return CHUNKS * len(CHUNK) / took / 1e6


def down_blocking(address: str) -> float:
    connection = blocking.connect(address, HELLO)
    start = time.perf_counter()
    for _ in connection.open(BlobGet("vl-x")):
        pass
    took = time.perf_counter() - start
    connection.close()
    return CHUNKS * len(CHUNK) / took / 1e6


def up_blocking(address: str) -> float:
    connection = blocking.connect(address, HELLO)
    start = time.perf_counter()
    stream = connection.open(BlobPut("vl-x", CHUNKS * len(CHUNK)))
    for _ in range(CHUNKS):
        stream.send(BlobChunk(CHUNK))
    stream.end()
    assert stream.receive() is None
    took = time.perf_counter() - start
    connection.close()
    return CHUNKS * len(CHUNK) / took / 1e6


def measure(folder: str, port: int, quick: bool) -> None:
    count = 2_000 if quick else 20_000
    unix, tcp = f"unix:{folder}/wire.sock", f"tcp://127.0.0.1:{port}"
    bare = bare_round_trips(f"{folder}/echo.sock", count)
    row("bare echo, unix, one at a time", bare, "µs")
    connection = blocking.connect(unix, HELLO)
    round_trips(connection, MESSAGE, Outputs, 200)
    took = round_trips(connection, MESSAGE, Outputs, count)
    row("blocking client, unix, fast handler", took, "µs", took / bare)
    took = round_trips(connection, Done(), Done, count // 2)
    row("blocking client, unix, coroutine handler", took, "µs", took / bare)
    connection.close()
    connection = blocking.connect(tcp, HELLO)
    took = round_trips(connection, MESSAGE, Outputs, count)
    row("blocking client, tcp, fast handler", took, "µs", took / bare)
    connection.close()
    row("asyncio client, unix, 1 in flight", uvloop.run(in_flight(unix, 1, count)), "/s")
    row("asyncio client, unix, 100 in flight", uvloop.run(in_flight(unix, 100, count * 5)), "/s")
    row("asyncio client, tcp, 100 in flight", uvloop.run(in_flight(tcp, 100, count * 5)), "/s")
    row("stream down, asyncio client", uvloop.run(down(unix)), "MB/s")
    row("stream down, blocking client", down_blocking(unix), "MB/s")
    row("stream up, blocking client", up_blocking(unix), "MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve(options.serve))
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.abspath(__file__), "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                measure(folder, int(server.stdout.readline()), options.quick)
            finally:
                server.kill()


if __name__ == "__main__":
    main()
