"""The TLS port that reads greetings first: however they come, and whoever sends none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
import trustme

from intermodal.server.tls import front as front_module
from intermodal.server.tls.front import UNKNOWN_NAME, Front
from intermodal.server.tls.greeting import Greeting


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(data)


class Site:
    def __init__(self) -> None:
        self.authority = trustme.CA()
        self.seen: list[Greeting] = []
        self.may_choose = asyncio.Event()
        self.may_choose.set()
        self.contexts = {}
        for name in ("a.example", "b.example"):
            context = self.contexts[name] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.authority.issue_cert(name).configure_cert(context)
        self.front = Front(self._choose)
        self.client = ssl.create_default_context()
        self.authority.configure_trust(self.client)

    async def _choose(self, greeting: Greeting) -> tuple[ssl.SSLContext, Callable[[], asyncio.Protocol]] | None:
        self.seen.append(greeting)
        await self.may_choose.wait()
        context = self.contexts.get(greeting.name)
        return None if context is None else (context, Echo)

    @property
    def port(self) -> int:
        return int(self.front.sockets[0].getsockname()[1])

    async def talk(self, name: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client, server_hostname=name)
        writer.write(b"hello")
        try:
            return await reader.readexactly(5)
        finally:
            writer.close()
            await writer.wait_closed()

    async def raw(self, *parts: bytes) -> bytes:
        """Send them one after the other, and the end; all that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    await made.front.open("127.0.0.1", 0)
    yield made
    made.front.close()


def hello(name: str) -> tuple[ssl.SSLObject, ssl.MemoryBIO, bytes]:
    context = ssl.create_default_context()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, to_client, to_server.read()


async def test_each_name_has_its_own(site: Site) -> None:
    assert await asyncio.gather(*(site.talk(name) for name in ["a.example", "b.example"] * 20)) == [b"hello"] * 40
    assert {greeting.name for greeting in site.seen} == {"a.example", "b.example"}
    assert await site.raw(hello("c.example")[2]) == UNKNOWN_NAME
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized"):
        await site.talk("c.example")


async def test_a_greeting_byte_by_byte(site: Site) -> None:
    client, to_client, greeting = hello("a.example")
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for at in range(len(greeting)):
        writer.write(greeting[at : at + 1])
        await writer.drain()
    while len(site.seen) < 1:  # the answer is the server's part of the handshake
        to_client.write(await reader.read(65536))
    with pytest.raises(ssl.SSLCertVerificationError):  # which names an authority that this client does not know
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                to_client.write(await reader.read(65536))
    writer.close()


async def test_who_is_no_client_of_tls(site: Site) -> None:
    greeting = hello("a.example")[2]
    assert await site.raw() == b""
    assert await site.raw(b"GET / HTTP/1.1\r\n\r\n") == b""
    assert await site.raw(greeting[:3]) == b""
    assert await site.raw(greeting[:100], greeting[100:200]) == b""
    assert site.seen == []
    assert await site.talk("a.example") == b"hello"


async def test_who_waits_holds_up_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not while there is room, which is there again when one that waited has gone."""
    monkeypatch.setattr(front_module, "WAITING", 3)
    site.may_choose.clear()
    waiting = [asyncio.create_task(site.talk("a.example")) for _ in range(2)]
    silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(1)]
    while len(site.seen) < 2 or len(site.front._tasks) < 3:
        await asyncio.sleep(0)
    late = asyncio.create_task(site.talk("b.example"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(site.front._tasks) == 3
    silent[0][1].close()
    while len(site.seen) < 3:
        await asyncio.sleep(0)
    site.may_choose.set()
    assert await asyncio.gather(*waiting, late) == [b"hello"] * 3


async def test_who_sends_no_greeting_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_module, "GREETING_SECONDS", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await reader.read() == b""
    writer.close()


async def test_a_port_that_is_taken(site: Site) -> None:
    other = Front(site._choose)
    with pytest.raises(OSError, match=r"(?i)in use"):
        await other.open("127.0.0.1", site.port)
    assert all(sock.fileno() < 0 for sock in other.sockets)
