"""Real servers on real sockets, one of each kind."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from modal._protocol import aio
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.secret import ObjectId, SecretLookup
from modal._protocol.messages.wire import Done, Hello, Welcome

HELLO = Hello("client", 1, 1, token_secret="open sesame")


def answers() -> aio.Handlers:
    """An echo, a refusal, a stream down, a stream up."""
    handlers = aio.Handlers()

    @handlers.fast(Invoke)
    def invoke(connection: aio.Connection, stream_id: int, message: Invoke) -> None:
        connection.respond(stream_id, Outputs([0], [0], [message.args]))

    @handlers.unary(SecretLookup)
    async def lookup(connection: aio.Connection, message: SecretLookup) -> ObjectId:
        raise Fault(Code.NOT_FOUND, f"there is no secret {message.name}")

    @handlers.unary(Done)
    async def never(connection: aio.Connection, message: Done) -> Done:
        await asyncio.Event().wait()
        return message

    @handlers.stream(BlobGet)
    async def get(connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        for number in range(int(message.blob_id)):
            await stream.send(BlobChunk(number.to_bytes(4, "big") + b"x" * 100_000))

    @handlers.stream(BlobPut)
    async def put(connection: aio.Connection, message: BlobPut, stream: aio.Stream) -> Outputs:
        sizes = [len(item.data) async for item in stream]  # type: ignore[attr-defined]
        return Outputs(sizes, [], [])

    return handlers


def greet(connection: aio.Connection, hello: Hello) -> Welcome:
    if hello.token_secret != HELLO.token_secret:
        raise Fault(Code.AUTH, "the token is not known here")
    return Welcome(0, workspace="w")


@dataclass
class Place:
    """Where a server listens, and how a client trusts it."""

    address: str
    client_ssl: ssl.SSLContext | None = None
    connections: list[aio.Connection] = field(default_factory=list)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost")


def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def listen(
    kind: str,
    folder: Path,
    authority: trustme.CA,
    certificate: trustme.LeafCert,
    handlers: aio.Handlers | None = None,
    **options: Any,
) -> tuple[Place, asyncio.AbstractServer]:
    place = Place("")
    options.setdefault("connected", place.connections.append)
    table = handlers or answers()
    if kind == "unix":
        place.address = f"unix:{folder}/s.sock"
        return place, await aio.serve(place.address, greet, table, **options)
    if kind == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        server = await aio.serve("tls://127.0.0.1:0", greet, table, ssl=context, **options)
        place.client_ssl = trust(authority)
    else:
        server = await aio.serve("tcp://127.0.0.1:0", greet, table, **options)
    port = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    place.address = f"{kind}://localhost:{port}" if kind == "tls" else f"{kind}://127.0.0.1:{port}"
    return place, server


@contextlib.asynccontextmanager
async def another_program(says: bytes, *, after: bytes = b"", path: Path | None = None) -> AsyncIterator[str]:
    """No server of ours: waits for `after`, says its words, and reads to the end. Gives its address."""
    answering: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        if after:
            await reader.readuntil(after)
        writer.write(says)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    if path is not None:
        server: asyncio.AbstractServer = await asyncio.start_unix_server(answer, path)
        address = f"unix:{path}"
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    async with server:
        yield address
        if answering:
            await asyncio.wait_for(asyncio.gather(*answering), 100)


async def gone(connection: aio.Connection) -> None:
    """Close, and wait until it is."""
    ended = asyncio.get_running_loop().create_future()
    connection.on_close.append(ended.set_result)
    connection.close()
    await asyncio.wait_for(ended, 100)


@pytest.fixture
async def listening(
    tmp_path: Path, authority: trustme.CA, certificate: trustme.LeafCert
) -> AsyncIterator[Callable[..., Any]]:
    """`await listening(kind, handlers=…, …)` gives a Place; ends with the test."""
    opened: list[tuple[Place, asyncio.AbstractServer]] = []

    async def begin(kind: str = "unix", handlers: aio.Handlers | None = None, **options: Any) -> Place:
        place, server = await listen(kind, tmp_path, authority, certificate, handlers, **options)
        opened.append((place, server))
        return place

    yield begin
    for place, server in opened:
        server.close()
        for connection in place.connections:
            connection.abort()
    await asyncio.sleep(0)
    while any(not connection._lost for place, _server in opened for connection in place.connections):
        await asyncio.sleep(0.001)


@pytest.fixture(params=["unix", "tcp", "tls"])
def threaded(
    request: pytest.FixtureRequest, tmp_path: Path, authority: trustme.CA, certificate: trustme.LeafCert
) -> Iterator[Place]:
    """A server in a thread of its own, for blocking clients."""
    ready: threading.Event = threading.Event()
    found: list[Any] = []

    async def main() -> None:
        place, server = await listen(request.param, tmp_path, authority, certificate)
        stop = asyncio.Event()
        found.extend([place, asyncio.get_running_loop(), stop])
        ready.set()
        await stop.wait()
        server.close()
        for connection in place.connections:
            connection.abort()
        while any(not connection._lost for connection in place.connections):
            await asyncio.sleep(0.001)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait(100)
    place, loop, stop = found
    yield place
    loop.call_soon_threadsafe(stop.set)
    thread.join(100)
    assert not thread.is_alive()
