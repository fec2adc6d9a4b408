"""Tunnels on real sockets; what they lead to is a server of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket

import pytest

from intermodal.server.store.store import Store
from intermodal.server.store.tunnels import TunnelRow
from intermodal.server.tls.certificates import Certificates
from intermodal.server.tunnels import tunnels as module
from intermodal.server.tunnels.settings import NAMES, TunnelSettings
from intermodal.server.tunnels.tunnels import Tunnels
from modal._protocol.errors import Code, Fault

PORTS = TunnelSettings()
BY_NAME = TunnelSettings(NAMES, named=True, port=0, fixed=True)


class Inside:
    """What runs in containers: servers on this machine, by the port that the container has."""

    def __init__(self) -> None:
        self.ports: dict[int, int] = {}
        self.running = {"ta-1", "ta-2"}
        self._servers: list[asyncio.Server] = []

    async def serve(self, port: int, handle: Callable[..., object]) -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self._servers.append(server)
        self.ports[port] = server.sockets[0].getsockname()[1]

    async def connect(self, container_id: str, port: int) -> socket:
        if container_id not in self.running:
            raise Fault(Code.NOT_FOUND, "it does not run")
        sock = socket(AF_INET, SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.ports.get(port, 1)))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        for server in self._servers:
            server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers what it gets; ends when the client has ended its half."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    made = Inside()
    await made.serve(8000, echo)
    yield made
    made.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = await Store.open(tmp_path / "store.sqlite")
    yield made
    await made.close()


@pytest.fixture
async def make(inside: Inside, store: Store, tmp_path: Path) -> AsyncIterator[Callable[[TunnelSettings], Tunnels]]:
    """Tunnels of these settings, in this test's state directory."""
    every: list[Tunnels] = []
    certificates = Certificates(tmp_path / "tls", "", "")

    def build(settings: TunnelSettings) -> Tunnels:
        made = Tunnels(settings, store.tunnels, certificates.get, inside.connect, inside.running.__contains__)
        every.append(made)
        return made

    yield build
    for made in every:
        await made.close()
    await asyncio.sleep(0)


def trusting(tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(tmp_path / "tls" / "ca.pem"))


async def dial(row: TunnelRow, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = row.tls_port if context is not None else row.tcp_port
    name = row.host if context is not None else None
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)


async def ask(row: TunnelRow, context: ssl.SSLContext | None, data: bytes = b"hello") -> bytes:
    reader, writer = await dial(row, context)
    writer.write(data)
    answer = await reader.readexactly(len(data))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return answer


@pytest.mark.parametrize("settings", [PORTS, BY_NAME], ids=["ports", "names"])
async def test_with_tls_and_without(
    make: Callable[[TunnelSettings], Tunnels], tmp_path: Path, settings: TunnelSettings
) -> None:
    """A client that trusts the state directory's authority reaches the port; the certificate fits the name."""
    tunnels = make(settings)
    row = await tunnels.open("ta-1", 8000, unencrypted=True)
    assert await ask(row, trusting(tmp_path)) == b"hello"
    assert await ask(row, None) == b"hello"
    plain = await tunnels.open("ta-1", 8000)
    assert plain.tcp_port == 0
    if settings.named:
        assert plain.host != row.host
        assert plain.tls_port == row.tls_port
        assert len(plain.host.split(".")[0]) == 16
    with pytest.raises(ssl.SSLError):
        await ask(row, ssl.create_default_context())


async def test_half_of_a_connection_may_end(make: Callable[[TunnelSettings], Tunnels]) -> None:
    row = await make(PORTS).open("ta-1", 8000, encrypted=False, unencrypted=True)
    reader, writer = await dial(row, None)
    writer.write(b"x" * 3_000_000)
    writer.write_eof()
    assert len(await reader.read()) == 3_000_000
    writer.close()


async def test_a_slow_reader_slows_the_writer(make: Callable[[TunnelSettings], Tunnels], inside: Inside) -> None:
    """Of 200 MB, only what buffers hold leaves the container while the client does not read."""
    written = 0

    async def pour(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(bytes(1_000_000))
                await writer.drain()
                written += 1_000_000
        writer.close()

    await inside.serve(9000, pour)
    row = await make(PORTS).open("ta-1", 9000, encrypted=False, unencrypted=True)
    reader, writer = await dial(row, None)
    before = -1
    while not written or before != written:  # until nothing moves any more
        before = written
        await asyncio.sleep(0.3)
    assert 0 < written < 50_000_000
    assert len(await reader.read()) == 200_000_000
    writer.close()


@pytest.mark.parametrize("settings", [PORTS, BY_NAME], ids=["ports", "names"])
async def test_closed_means_closed(
    make: Callable[[TunnelSettings], Tunnels], tmp_path: Path, settings: TunnelSettings, store: Store
) -> None:
    """Connections end, nothing listens, and only the container itself may close its tunnel."""
    tunnels = make(settings)
    row = await tunnels.open("ta-1", 8000, unencrypted=True)
    reader, writer = await dial(row, None)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    await tunnels.end(row.tunnel_id, "ta-2")
    assert await ask(row, None) == b"hello"
    await tunnels.end(row.tunnel_id, "ta-1")
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    for context in (None, trusting(tmp_path)):
        with pytest.raises(OSError):
            await ask(row, context)
    assert await store.tunnels.all() == []
    await tunnels.end(row.tunnel_id, "ta-1")  # twice


async def test_the_end_of_a_container(make: Callable[[TunnelSettings], Tunnels], inside: Inside, store: Store) -> None:
    tunnels = make(PORTS)
    row = await tunnels.open("ta-1", 8000, encrypted=False, unencrypted=True)
    other = await tunnels.open("ta-2", 8000, encrypted=False, unencrypted=True)
    inside.running.discard("ta-1")
    tunnels.container_gone("ta-1")
    while len(await store.tunnels.all()) > 1:
        await asyncio.sleep(0.01)
    with pytest.raises(OSError):
        await ask(row, None)
    assert await ask(other, None) == b"hello"
    late = await tunnels.open("ta-1", 8000, unencrypted=True)  # the question was under way
    with pytest.raises(OSError):
        await ask(late, None)


@pytest.mark.parametrize("settings", [PORTS, BY_NAME, replace(BY_NAME, fixed=False)], ids=["ports", "names", "any"])
async def test_a_restart_of_the_server(
    make: Callable[[TunnelSettings], Tunnels],
    inside: Inside,
    tmp_path: Path,
    settings: TunnelSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next server has the tunnels of containers that run, at the same addresses, and drops the others."""
    monkeypatch.setattr(module, "ADOPTION", 0.2)
    first = make(settings)
    row = await first.open("ta-1", 8000, unencrypted=True)
    lost = await first.open("ta-2", 8000, unencrypted=True)
    await first.close()
    inside.running.discard("ta-2")
    again = make(replace(settings, port=row.tls_port) if settings.fixed else settings)
    await again.start()
    assert await ask(row, trusting(tmp_path)) == b"hello"
    assert await ask(row, None) == b"hello"
    async with asyncio.timeout(200):
        while True:
            try:
                await ask(lost, None)
            except ConnectionRefusedError:
                break
            except (OSError, asyncio.IncompleteReadError):
                continue


async def test_a_server_that_starts_after_its_tunnel(make: Callable[[TunnelSettings], Tunnels], inside: Inside) -> None:
    row = await make(PORTS).open("ta-1", 7000, encrypted=False, unencrypted=True)
    asking = asyncio.create_task(ask(row, None))
    await asyncio.sleep(0.3)  # it is turned away meanwhile
    assert not asking.done()
    await inside.serve(7000, echo)
    assert await asking == b"hello"


async def test_nothing_ever_listens(make: Callable[[TunnelSettings], Tunnels], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    row = await make(PORTS).open("ta-1", 7000, encrypted=False, unencrypted=True)
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await ask(row, None)


async def test_an_unknown_name_is_refused_in_the_greeting(
    make: Callable[[TunnelSettings], Tunnels], tmp_path: Path
) -> None:
    row = await make(BY_NAME).open("ta-1", 8000)
    for host in (f"0123456789abcdef.{NAMES}", "localhost"):
        with pytest.raises(OSError):
            await ask(row._replace(host=host), trusting(tmp_path))


async def test_bounds(make: Callable[[TunnelSettings], Tunnels], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    with socket(AF_INET, SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        tunnels = make(TunnelSettings(first=port, last=port))
        with pytest.raises(Fault, match="no port can be had") as caught:
            await tunnels.open("ta-1", 8000)
        assert caught.value.code == Code.EXHAUSTED
    with pytest.raises(Fault, match="1 to 65535"):
        await tunnels.open("ta-1", 70000)
    await tunnels.open("ta-1", 8000)
    tunnels.settings = PORTS
    await tunnels.open("ta-1", 8000)
    with pytest.raises(Fault, match="2 tunnels"):
        await tunnels.open("ta-1", 8000)
