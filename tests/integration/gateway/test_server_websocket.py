"""WebSockets of servers that users run (`@modal.web_server`): bytes to a port and back, by either HTTP."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from intermodal.server.store.apps import new_app
from intermodal.server.store.functions import FunctionRow
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import WebSpec
from tests.integration.gateway.conftest import HOST, MakeRig, Rig
from tests.integration.gateway.h2_client import H2Line, open_h2, open_line
from tests.integration.gateway.test_http import echo


async def lead(rig: Rig, port: int) -> None:
    """The function is a server that listens there."""
    rig.spec.web = WebSpec("server", port=8000)
    app = new_app("ap-1", "en-1", "shop", "shop", AppState.DEPLOYED)
    rig.routes.publish(app, [FunctionRow("fu-1", "ap-1", "web", rig.spec, 1, True, "", {}, b"")])

    async def reach(_container_id: str, _port: int) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return sock

    rig.gateway.ports.connect = reach  # type: ignore[method-assign]


async def messages(line: H2Line, wire: Connection) -> list[Any]:
    """What the next bytes mean; messages whole."""
    parts, events = [], []
    while not events or (isinstance(events[-1], BytesMessage) and not events[-1].message_finished):
        data = await line.read()
        if not data:
            return []
        wire.receive_data(data)
        events = list(wire.events())
        parts += events
    return parts


async def test_a_server_in_a_container(make_rig: MakeRig) -> None:
    closed: asyncio.Queue[int | None] = asyncio.Queue()
    heads: list[dict[str, str]] = []

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        heads.append({name.lower(): value for name, value in connection.request.headers.raw_items()})
        try:
            async for message in connection:
                if message == "close":
                    await connection.close(4003, "enough")
                    return
                await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            await connection.wait_closed()
            closed.put_nowait(connection.close_code)

    rig = await make_rig(echo)
    async with serve(talk, "127.0.0.1", 0, compression=None) as server:
        await lead(rig, server.sockets[0].getsockname()[1])
        async with connect(f"ws://{HOST}:{rig.port}/a?b=c", host="127.0.0.1", port=rig.port) as client:
            await client.send("one")
            assert await client.recv() == "one"
        assert await closed.get() == 1000

        http2 = await open_h2(rig)
        line = await open_line(http2, "/a?b=c", ("cookie", "d=e"))
        assert line.answer.status == 200
        assert "sec-websocket-accept" not in line.answer.headers
        wire = Connection(ConnectionType.CLIENT)
        line.write(wire.send(TextMessage("two")))
        (event,) = await messages(line, wire)
        assert event.data == "two"
        line.write(wire.send(BytesMessage(bytes(3 << 20)[: 1 << 20])))
        assert sum(len(event.data) for event in await messages(line, wire)) == 1 << 20
        line.write(wire.send(TextMessage("close")))
        (event,) = await messages(line, wire)
        assert isinstance(event, CloseConnection)
        assert (event.code, event.reason) == (4003, "enough")
        line.write(wire.send(event.response()))
        assert await line.read() == b""
        assert await closed.get() == 4003

        line = await open_line(http2, "/")
        http2.wire.reset_stream(line.number)
        http2.flush()
        assert await closed.get() == 1006
        http2.close()
    assert heads[1]["cookie"] == "d=e"
    assert {name for name in heads[1] if name.startswith("sec-")} == {"sec-websocket-version", "sec-websocket-key"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n", 502),
        (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", 403),
        (b"nonsense\r\n\r\n", 502),
    ],
)
async def test_a_server_that_does_not_take_it(make_rig: MakeRig, answer: bytes, status: int) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    rig = await make_rig(echo)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        await lead(rig, server.sockets[0].getsockname()[1])
        client = await open_h2(rig)
        line = await open_line(client, "/")
        assert (line.answer.status, line.answer.ended, line.answer.reset) == (status, True, 0)
        client.close()
        await rig.close()
