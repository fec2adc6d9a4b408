"""One port for frames and HTTP."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from modal._protocol import aio, upgrade
from modal._protocol.frames import Kind, pack
from modal._protocol.messages.call import Invoke, Outputs
from tests.integration.protocol.conftest import HELLO, gone


def get(port: int, path: str, context: ssl.SSLContext | None, method: str = "GET") -> tuple[int, str]:
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    else:
        connection = http.client.HTTPSConnection("localhost", port, timeout=100, context=context)
    connection.request(method, path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_a_browser_is_told_what_this_is(kind: str, listening: Callable[..., Any]) -> None:
    place = await listening(kind)
    port = port_of(place.address)
    status, text = await asyncio.to_thread(get, port, "/", place.client_ssl)
    assert status == 200
    assert "Intermodal" in text
    status, text = await asyncio.to_thread(get, port, "/other", place.client_ssl)
    assert status == 404
    assert "Intermodal" in text
    assert await asyncio.to_thread(get, port, "/", place.client_ssl, "HEAD") == (200, "")


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_http_goes_to_the_one_who_serves_it(kind: str, listening: Callable[..., Any]) -> None:
    class Page(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if b"\r\n\r\n" in data:
                text = data.split(b" ")[1].decode()
                self.transport.write(upgrade.plain_answer("200 OK", f"page {text}"))  # type: ignore[attr-defined]
                self.transport.close()

    place = await listening(kind, http=Page)
    port = port_of(place.address)
    assert await asyncio.to_thread(get, port, "/dashboard", place.client_ssl) == (200, "page /dashboard")
    assert await asyncio.to_thread(get, port, "/_frames", place.client_ssl) == (200, "page /_frames")  # no Upgrade
    connection = await aio.connect(place.address, HELLO, ssl=place.client_ssl)  # frames still go to us
    assert (await connection.request(Invoke("c", "f", b"x"), Outputs)).values == [b"x"]
    await gone(connection)


async def talk(address: str, data: bytes, pieces: int = 1) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(address))
    size = max(1, len(data) // pieces)
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)
    answer = await asyncio.wait_for(reader.read(1 << 16), 200)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_an_upgrade_by_hand(listening: Callable[..., Any]) -> None:
    place = await listening("tcp")
    hello = pack(Kind.HELLO, HELLO.TYPE, 0, *HELLO.encode())
    request = (
        b"GET /_frames HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 1.2.3.4\r\n"
        b"connection: upgrade\r\nUPGRADE:  Intermodal/1\r\n\r\n"
    )
    assert (await talk(place.address, request, pieces=30)).startswith(b"HTTP/1.1 101 ")
    answer = await talk(place.address, request + hello)  # eager, but right
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.partition(b"\r\n\r\n")[2][0] == Kind.WELCOME
    assert (await talk(place.address, hello))[0] == Kind.WELCOME  # no proxy in between: frames at once


async def test_an_upgrade_to_another_version_is_refused(listening: Callable[..., Any]) -> None:
    place = await listening("tcp")
    answer = await talk(place.address, b"GET /_frames HTTP/1.1\r\nUpgrade: intermodal/2\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"install the same version" in answer


async def test_bytes_that_are_nothing(listening: Callable[..., Any]) -> None:
    place = await listening("tcp")
    for data in (b"\x16\x03\x01\x02\x00\x01\x00", b"\xff" * 1000, b"hello\n", b"\r\n\r\n", b"\x0d" * 20):
        assert await talk(place.address, data)
    connection = await aio.connect(place.address, HELLO)
    await gone(connection)
