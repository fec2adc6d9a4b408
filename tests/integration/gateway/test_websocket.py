"""WebSockets through the gateway, with wsproto as a strict client: what RFC 6455 asks of a server, by either HTTP.

The cases of the Autobahn test suite run in test_autobahn.py.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from tests.integration.gateway.conftest import HOST, MakeRig, Rig
from tests.integration.gateway.h2_client import H2Line, open_h2, open_line

LIMIT = 2 << 20


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            closed.put_nowait(message["code"])
            return
        await send({"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")})


closed: asyncio.Queue[int] = asyncio.Queue()


VERSION = "1.1"


@pytest.fixture(autouse=True, params=["1.1", "2"])
def version(request: pytest.FixtureRequest) -> str:
    """Of HTTP, by which `open_client` comes; the queue is new each time."""
    global closed, VERSION
    closed = asyncio.Queue()
    VERSION = request.param
    return VERSION


class Client:
    """A client that shows what it sees, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._wire = WSConnection(ConnectionType.CLIENT)
        self._text = ""
        self._data = b""

    def send(self, event: Event) -> None:
        self._writer.write(self._wire.send(event))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def next(self) -> Any:
        """The next event, messages whole; None at the end of the connection."""
        while True:
            for event in self._wire.events():
                if isinstance(event, Message):
                    if isinstance(event, TextMessage):
                        self._text += event.data
                    elif isinstance(event, BytesMessage):
                        self._data += bytes(event.data)
                    if not event.message_finished:
                        continue
                    text, self._text, data, self._data = self._text, "", self._data, b""
                    return text if isinstance(event, TextMessage) else data
                return event
            data = await asyncio.wait_for(self._reader.read(65536), 200)
            if not data:
                return None
            self._wire.receive_data(data)

    def end(self) -> None:
        self._writer.close()


class Http2Client(Client):
    """The same by a stream of HTTP/2 (RFC 8441)."""

    def __init__(self, line: H2Line) -> None:
        self._line = line
        self._wire = Connection(ConnectionType.CLIENT)  # type: ignore[assignment]
        self._text = ""
        self._data = b""
        self._reader = self._writer = line  # type: ignore[assignment]


async def open_client(rig: Rig, subprotocols: tuple[str, ...] = ()) -> Client:
    chosen = subprotocols[-1] if subprotocols else None
    if VERSION == "2":
        offered = [("sec-websocket-protocol", ", ".join(subprotocols))] if subprotocols else []
        line = await open_line(await open_h2(rig), "/ws", *offered)
        assert line.answer.status == 200
        assert line.answer.headers.get("sec-websocket-protocol") == chosen
        return Http2Client(line)
    client = Client(*await asyncio.open_connection("127.0.0.1", rig.port, limit=1 << 23))
    client.send(Request(host=HOST, target="/ws", subprotocols=list(subprotocols)))
    event = await client.next()
    assert isinstance(event, AcceptConnection), event
    assert event.subprotocol == chosen
    return client


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """A client's frame, also one that no proper client would send."""
    head = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    flag = 0x80 if mask else 0
    if len(data) < 126:
        head += bytes([flag | len(data)])
    elif len(data) < 65536:
        head += bytes([flag | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", len(data))
    if not mask:
        return head + data
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 200_000])
async def test_messages_of_every_length_class(make_rig: MakeRig, size: int) -> None:
    client = await open_client(await make_rig(echo))
    client.send(TextMessage("é" * (size // 2)))
    assert await client.next() == "é" * (size // 2)
    client.send(BytesMessage(b"\xfe" * size))
    assert await client.next() == b"\xfe" * size
    client.end()


async def test_two_mebibytes_and_no_more(make_rig: MakeRig) -> None:
    client = await open_client(await make_rig(echo))
    client.send(BytesMessage(b"x" * LIMIT))
    assert len(await client.next()) == LIMIT
    client.send(BytesMessage(b"x" * (LIMIT + 1)))
    event = await client.next()
    assert isinstance(event, CloseConnection)
    assert event.code == 1009
    assert await asyncio.wait_for(closed.get(), 200) == 1009
    client.end()


async def test_text_of_many_bytes_a_character(make_rig: MakeRig) -> None:
    """Flow control counts bytes on both sides: it must not run dry."""
    client = await open_client(await make_rig(echo))
    text = "\u3042" * 100_000
    for _ in range(12):  # 3.6 MB, more than any window
        client.send(TextMessage(text))
        assert await client.next() == text
    client.end()


async def test_fragments_with_a_ping_between(make_rig: MakeRig) -> None:
    client = await open_client(await make_rig(echo))
    client.send_raw(frame(1, "Hé".encode()[:2], fin=False) + frame(9, b"are you there") + frame(0, b"\xa9", fin=False))
    client.send_raw(frame(0, b"llo"))
    pong = await client.next()
    assert isinstance(pong, Pong)
    assert bytes(pong.payload) == b"are you there"
    assert await client.next() == "Héllo"
    client.end()


async def test_pings_and_unasked_pongs(make_rig: MakeRig) -> None:
    client = await open_client(await make_rig(echo))
    client.send_raw(frame(10, b"nobody asked"))
    for number in range(10):
        client.send(Ping(b"%d" % number))
    for number in range(10):
        event = await client.next()
        assert isinstance(event, Pong)
        assert bytes(event.payload) == b"%d" % number
    client.end()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(1, b"x", rsv=4), 1002, id="reserved-bit-1"),
        pytest.param(frame(1, b"x", rsv=2), 1002, id="reserved-bit-2"),
        pytest.param(frame(1, b"x", rsv=1), 1002, id="reserved-bit-3"),
        pytest.param(frame(3, b"x"), 1002, id="opcode-3"),
        pytest.param(frame(7, b""), 1002, id="opcode-7"),
        pytest.param(frame(11, b"x"), 1002, id="opcode-11"),
        pytest.param(frame(15, b""), 1002, id="opcode-15"),
        pytest.param(frame(9, b"x" * 126), 1002, id="long-ping"),
        pytest.param(frame(9, b"x", fin=False), 1002, id="fragmented-ping"),
        pytest.param(frame(0, b"x"), 1002, id="continuation-of-nothing"),
        pytest.param(frame(1, b"a", fin=False) + frame(1, b"b"), 1002, id="text-within-a-message"),
        pytest.param(frame(1, b"x", mask=False), 1002, id="unmasked"),
        pytest.param(frame(1, b"\xff\xfe"), 1007, id="no-utf-8"),
        pytest.param(frame(1, b"\xed\xa0\x80"), 1007, id="surrogate"),
        pytest.param(frame(1, b"\xce\xba", fin=False) + frame(0, b"\xf4\x90\x80\x80"), 1007, id="fragments"),
        pytest.param(frame(1, b"\xc3"), 1007, id="cut-utf-8"),
        pytest.param(frame(8, b"\x03"), 1002, id="close-of-one-byte"),
        pytest.param(frame(8, struct.pack("!H", 1005)), 1002, id="close-1005"),
        pytest.param(frame(8, struct.pack("!H", 999)), 1002, id="close-999"),
        pytest.param(frame(8, struct.pack("!H", 1000) + b"\xff"), 1007, id="close-reason-no-utf-8"),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(make_rig: MakeRig, data: bytes, code: int) -> None:
    client = await open_client(await make_rig(echo))
    client.send_raw(data)
    event = await client.next()
    assert isinstance(event, CloseConnection), event
    assert event.code == code
    await asyncio.wait_for(closed.get(), 200)  # the app hears of the end
    client.end()


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 3000, 3999, 4000, 4999])
async def test_closing_codes_are_answered_and_reach_the_app(make_rig: MakeRig, code: int) -> None:
    client = await open_client(await make_rig(echo))
    client.send(CloseConnection(code, "bye"))
    event = await client.next()
    assert isinstance(event, CloseConnection)
    assert event.code == code
    assert await asyncio.wait_for(closed.get(), 200) == code
    assert await client.next() is None
    client.end()


async def test_a_connection_that_is_lost(make_rig: MakeRig) -> None:
    rig = await make_rig(echo)
    client = await open_client(rig)
    client.end()
    assert await asyncio.wait_for(closed.get(), 200) == 1006
    while rig.dispatch.scheduler.pools["fu-1"].assigned:  # its slot is free again
        await asyncio.sleep(0.01)


async def test_the_app_closes(make_rig: MakeRig) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
        await send({"type": "websocket.send", "text": "last"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})

    client = await open_client(await make_rig(app))
    assert await client.next() == "last"
    event = await client.next()
    assert (event.code, event.reason) == (4001, "enough")
    client.send(event.response())
    assert await client.next() is None
    client.end()


async def test_the_app_refuses_or_raises(make_rig: MakeRig, version: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/deny":
            await send({"type": "websocket.close"})
            return
        if scope["path"] == "/raise":
            raise ValueError("boom")
        await send({"type": "websocket.accept"})
        raise ValueError("boom")

    rig = await make_rig(app)
    for path, status in (("/deny", 403), ("/raise", 500)):
        if version == "2":
            line = await open_line(await open_h2(rig), path)
            assert (line.answer.status, line.answer.ended, line.answer.reset) == (status, True, 0)
            line.close()
            continue
        client = Client(*await asyncio.open_connection("127.0.0.1", rig.port))
        client.send(Request(host=HOST, target=path))
        event = await client.next()
        assert isinstance(event, RejectConnection)
        assert event.status_code == status
        client.end()
    client = await open_client(rig)
    event = await client.next()
    assert event.code == 1011
    client.end()


async def test_subprotocols(make_rig: MakeRig) -> None:
    client = await open_client(await make_rig(echo), ("one", "two"))
    client.end()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
    ],
)
async def test_a_wrong_handshake(make_rig: MakeRig, version: str, headers: dict[str, str], status: int) -> None:
    rig = await make_rig(echo)
    if version == "2":
        wrong = {name.lower(): value for name, value in headers.items() if name != "Sec-WebSocket-Key"}
        line = await open_line(await open_h2(rig), "/ws", version=wrong.get("sec-websocket-version", "none"))
        assert line.answer.status == 426
        line.close()
        return
    every = {
        "Host": HOST,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **headers,
    }
    lines = ["GET /ws HTTP/1.1", *(f"{name}: {value}" for name, value in every.items())]
    answer = await rig.raw("\r\n".join([*lines, "", ""]).encode())
    assert answer.startswith(b"HTTP/1.1 %d" % status)


async def test_many_at_once_on_one_container(make_rig: MakeRig) -> None:
    rig = await make_rig(echo, limit=300)
    clients = await asyncio.gather(*(open_client(rig) for _ in range(200)))
    for number, client in enumerate(clients):
        client.send(TextMessage(str(number)))
    assert [await client.next() for client in clients] == [str(number) for number in range(200)]
    for client in clients:
        client.end()
