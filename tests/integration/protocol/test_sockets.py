"""Requests and streams over unix sockets, TCP and TLS, from both kinds of client."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modal._protocol import aio, blocking
from modal._protocol.errors import ConnectionLost, Fault, ProtocolError, Unreachable
from modal._protocol.messages.call import BlobChunk, BlobGet, BlobPut, Invoke, Outputs
from modal._protocol.messages.secret import ObjectId, SecretLookup
from modal._protocol.messages.wire import Done, Hello, Welcome
from tests.integration.protocol.conftest import HELLO, Place, another_program, gone

KINDS = ["unix", "tcp", "tls"]


@pytest.mark.parametrize("kind", KINDS)
async def test_asyncio_client(kind: str, listening: Callable[..., Any]) -> None:
    place = await listening(kind)
    connection = await aio.connect(place.address, HELLO, ssl=place.client_ssl)
    assert connection.welcome is not None
    assert connection.welcome.workspace == "w"
    for size in (0, 10, 70_000, 5_000_000):
        assert (await connection.request(Invoke("c", "f", b"x" * size), Outputs)).values == [b"x" * size]
    with pytest.raises(Fault, match="no secret s") as caught:
        await connection.request(SecretLookup("s"), ObjectId)
    assert caught.value.code == "not-found"
    numbers = [int.from_bytes(item.data[:4], "big") async for item in connection.open(BlobGet("50"))]  # type: ignore[attr-defined]
    assert numbers == list(range(50))
    stream = connection.open(BlobPut("x", 0))
    for size in (1, 1_000_000, 3_000_000, 0):
        await stream.send(BlobChunk(b"y" * size))
    stream.end()
    assert await stream.receive() is None
    assert stream.response == Outputs([1, 1_000_000, 3_000_000, 0], [], [])
    answers = await asyncio.gather(*(connection.request(Invoke("c", "f", b"%d" % n), Outputs) for n in range(500)))
    assert [answer.values[0] for answer in answers] == [b"%d" % n for n in range(500)]
    await connection.ping()
    assert not connection._streams
    assert not connection._waiting
    await gone(connection)


def test_blocking_client(threaded: Place) -> None:
    connection = blocking.connect(threaded.address, HELLO, ssl=threaded.client_ssl)
    assert isinstance(connection.welcome, Welcome)
    for size in (0, 10, 70_000, 5_000_000):
        assert connection.request(Invoke("c", "f", b"x" * size), Outputs).values == [b"x" * size]
    with pytest.raises(Fault, match="no secret s"):
        connection.request(SecretLookup("s"), ObjectId)
    stream = connection.open(BlobGet("50"))
    assert [int.from_bytes(item.data[:4], "big") for item in stream] == list(range(50))  # type: ignore[attr-defined]
    up = connection.open(BlobPut("x", 0))
    for size in (1, 1_000_000, 3_000_000, 0):
        up.send(BlobChunk(b"y" * size))
    up.end()
    assert up.receive() is None
    assert up.response == Outputs([1, 1_000_000, 3_000_000, 0], [], [])
    with pytest.raises(TimeoutError):
        connection.request(Done(), Done, timeout=0.01)
    assert connection.request(Invoke("c", "f", b"on"), Outputs).values == [b"on"]
    half = connection.open(BlobGet("50"))
    assert half.receive() is not None
    half.cancel()
    assert connection.request(Invoke("c", "f", b"on"), Outputs).values == [b"on"]
    connection.close()
    with pytest.raises(ConnectionLost):
        connection.request(Done(), Done)


async def test_the_server_may_ask_too(listening: Callable[..., Any]) -> None:
    handlers = aio.Handlers()

    @handlers.unary(BlobChunk)
    async def double(connection: aio.Connection, message: BlobChunk) -> BlobChunk:
        return BlobChunk(message.data * 2)

    place = await listening("unix")
    connection = await aio.connect(place.address, HELLO, handlers)
    (other,) = place.connections
    assert await other.request(BlobChunk(b"ab"), BlobChunk) == BlobChunk(b"abab")
    with pytest.raises(Fault, match="does not answer Done"):
        await other.request(Done(), Done)
    await gone(connection)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_token_is_refused(kind: str, listening: Callable[..., Any]) -> None:
    place = await listening(kind)
    with pytest.raises(Fault, match="not known") as caught:
        await aio.connect(place.address, Hello("client", 1, 1), ssl=place.client_ssl)
    assert caught.value.code == "auth"


async def test_another_version_is_refused_in_words(listening: Callable[..., Any]) -> None:
    place = await listening("tcp")
    with pytest.raises(Fault, match="install the same version") as caught:
        await aio.connect(place.address, Hello("client", 7, 9, token_secret=HELLO.token_secret))
    assert caught.value.code == "version"


def test_blocking_refusals(threaded: Place) -> None:
    for hello, code in ((Hello("client", 1, 1), "auth"), (Hello("client", 7, 9), "version")):
        with pytest.raises(Fault) as caught:
            blocking.connect(threaded.address, hello, ssl=threaded.client_ssl)
        assert caught.value.code == code


async def test_an_unknown_certificate_is_refused(listening: Callable[..., Any]) -> None:
    place = await listening("tls")
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await aio.connect(place.address, HELLO)
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await asyncio.to_thread(blocking.connect, place.address, HELLO)


async def test_a_certificate_for_another_name_is_refused(listening: Callable[..., Any]) -> None:
    place = await listening("tls")
    context = place.client_ssl
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    port = place.address.rpartition(":")[2]
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        await aio.connect(f"tls://127.0.0.1:{port}", HELLO, ssl=context)


async def test_a_tls_server_needs_a_certificate(listening: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="certificate"):
        await aio.serve("tls://127.0.0.1:0", lambda _c, _h: Welcome(1), aio.Handlers())


@pytest.mark.parametrize("address", ["unix:/nonexistent/s.sock", "tcp://127.0.0.1:1"])
async def test_nobody_there(address: str) -> None:
    with pytest.raises(Unreachable, match="nobody answers"):
        await aio.connect(address, HELLO)
    with pytest.raises(Unreachable, match="nobody answers"):
        blocking.connect(address, HELLO)


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_somebody_else_is_there(kind: str, says: bytes, tmp_path: Path) -> None:
    """Another program answers, or accepts and stays silent."""
    async with another_program(says, path=tmp_path / "o.sock" if kind == "unix" else None) as address:
        with pytest.raises((Unreachable, ProtocolError, ConnectionLost)):
            await aio.connect(address, HELLO, timeout=0.3)
        with pytest.raises((Unreachable, ProtocolError, ConnectionLost)):
            await asyncio.to_thread(blocking.connect, address, HELLO, timeout=0.3)


def test_blocking_notes_are_kept_within_bounds(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    connection = blocking.Connection(ours)
    from modal._protocol.frames import Kind, pack

    note = pack(Kind.NOTE, BlobChunk.TYPE, 0, *BlobChunk(b"x" * 100_000).encode())
    answer = pack(Kind.RESPONSE, Done.TYPE, 1, *Done().encode())

    def flood() -> None:
        for _ in range(500):
            theirs.sendall(note)
        theirs.sendall(answer)

    thread = threading.Thread(target=flood)
    thread.start()
    assert connection.request(Done(), Done) == Done()
    thread.join()
    assert 100 <= len(connection.notes) <= 170  # the newest 16 MiB
    connection.close()
    theirs.close()
