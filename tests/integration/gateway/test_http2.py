"""HTTP/2 through the gateway, held against the h2 library as a client, and against clients that mean harm."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from tests.integration.gateway.conftest import HOST, MakeRig, Rig
from tests.integration.gateway.h2_client import Answer, H2Client, open_h2, open_line
from tests.integration.gateway.test_http import echo

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def describe(scope: Any, receive: Any, send: Any) -> None:
    lines = [scope["http_version"].encode(), *(name + b"=" + value for name, value in scope["headers"])]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Upper", b"1"), (b"connection", b"x")]})
    await send({"type": "http.response.body", "body": b"\n".join(lines)})


async def test_what_an_app_sees(make_rig: MakeRig) -> None:
    client = await open_h2(await make_rig(describe))
    answer = await client.get("/", ("x-one", "1"), ("cookie", "a=1"), ("cookie", "b=2"), ("host", HOST))
    assert answer.body.decode().split("\n") == ["2", f"host={HOST}", "x-one=1", "cookie=a=1; b=2"]
    assert answer.status == 200
    assert answer.headers["x-upper"] == "1"
    assert "connection" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.body))
    client.close()


async def test_many_at_once_in_any_order(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo, limit=10)
    client = await open_h2(rig)
    numbers = [client.begin("POST", f"/{i}", end=False) for i in range(50)]
    for number in reversed(numbers):
        client.send(number, b"body %d" % number, end=True)
    for i, number in enumerate(numbers):
        answer = await client.answer(number)
        assert answer.body == b"POST\n/%d\n\n\nbody %d" % (i, number)
    client.close()
    while rig.gateway.connections:
        await asyncio.sleep(0.01)
    assert not rig.calls.calls


async def test_heads_and_empty_bodies(make_rig: MakeRig) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        status = 204 if scope["path"] == "/none" else 200
        headers = [] if status == 204 else [(b"content-length", b"5")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if status == 204 else b"hello"})

    client = await open_h2(await make_rig(app))
    head = await client.get(method="HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "5", b"")
    none = await client.get("/none")
    assert (none.status, none.body) == (204, b"")
    assert "content-length" not in none.headers
    assert (await client.get()).body == b"hello"
    client.close()


async def test_trailers_padding_and_the_continue(make_rig: MakeRig) -> None:
    client = await open_h2(await make_rig(echo))
    number = client.begin("POST", "/", ("expect", "100-continue"), end=False)
    await client.until(lambda: client.answers[number].informational == [100])
    client.wire.send_data(number, b"padded", pad_length=200)
    client.wire.send_headers(number, [("x-trailer", "late")], end_stream=True)
    client.flush()
    assert (await client.answer(number)).body.endswith(b"padded")
    client.close()


async def test_events_are_not_held_back(make_rig: MakeRig) -> None:
    go = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await go.wait()
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    client = await open_h2(await make_rig(app))
    number = client.begin()
    await client.until(lambda: client.answers[number].body == b"data: 1\n\n")
    go.set()
    assert (await client.answer(number)).parts == [b"data: 1\n\n", b"data: 2\n\n"]
    client.close()


async def test_a_request_that_is_taken_back_is_cancelled(make_rig: MakeRig) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/quick":
            await echo(scope, receive, send)
            return
        begun.set()
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    rig: Rig = await make_rig(app)
    client = await open_h2(rig)
    number = client.begin()
    await begun.wait()
    client.wire.reset_stream(number, ErrorCodes.CANCEL)
    client.flush()
    await asyncio.wait_for(ended.wait(), 200)
    assert (await client.get("/quick")).status == 200  # the connection is as good as before
    client.close()
    while rig.dispatch.scheduler.pools["fu-1"].assigned:
        await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_up_its_stream_alone(make_rig: MakeRig) -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        if scope["path"] == "/quick":
            await echo(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(150):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent += 100_000
        await send({"type": "http.response.body", "body": b""})

    client = await open_h2(await make_rig(app), greedy=False)
    client.wire.increment_flow_control_window(1 << 24)  # of the connection, not of the stream
    number = client.begin("GET", "/large")
    await client.until(lambda: client.answers[number].size == 65535)
    before = -1
    while before != sent:  # until it does not go on any more
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 3_000_000
    assert (await client.get("/quick")).status == 200
    client.wire.increment_flow_control_window(1 << 24, number)
    client.flush()
    assert len((await client.answer(number)).body) == 15_000_000
    client.close()


async def test_a_slow_app_holds_up_its_upload_alone(make_rig: MakeRig) -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    client = await open_h2(await make_rig(app))
    number = client.begin("POST", "/slow", end=False)
    sending = asyncio.create_task(client.upload(number, 20_000_000))
    room = -1
    while room != 0:  # until its windows are used up
        room = client.wire.local_flow_control_window(number)
        await asyncio.sleep(0.01)
    other = await open_h2_beside(client)
    assert other == b"3000000"
    go.set()
    await sending
    assert (await client.answer(number)).body == b"20000000"
    client.close()


async def open_h2_beside(client: H2Client) -> bytes:
    """Another upload on the same connection, while the task of the first one reads what comes."""
    number, size = client.begin("POST", "/quick", end=False), 3_000_000
    while size:
        room = min(size, client.wire.local_flow_control_window(number), client.wire.max_outbound_frame_size)
        size -= room
        if room:
            client.send(number, b"x" * room, end=not size)
        await asyncio.sleep(0)
    while not client.answers[number].ended:
        await asyncio.sleep(0.01)
    return client.answers[number].body


async def test_what_apps_do_wrong_is_said(make_rig: MakeRig) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        path = scope["path"]
        if path == "/before":
            raise ValueError("boom")
        headers = {"/split": [(b"x", b"a\r\nset-cookie: b")], "/long": [(b"content-length", b"2")]}.get(path, [])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"part", "more_body": path != "/split"})
        raise ValueError("boom")

    client = await open_h2(await make_rig(app))
    assert (await client.get("/before")).status == 500
    assert (await client.get("/split")).status == 502
    for path in ("/long", "/after"):
        answer = await client.get(path)
        assert (answer.status, answer.ended, answer.reset) == (200, False, ErrorCodes.INTERNAL_ERROR)
    assert (await client.get("/before")).status == 500
    client.close()


async def test_limits_of_a_request(make_rig: MakeRig) -> None:
    client = await open_h2(await make_rig(echo, body_limit=100_000))
    assert (await client.get("/", ("x-long", "\xff" * 30_000))).status == 200
    assert (await client.get("/", ("x-long", "\xff" * 35_000))).status == 431
    number = client.begin("POST", "/", ("content-length", "200000"), end=False)
    assert (await client.answer(number)).status == 413
    number = client.begin("POST", "/", end=False)
    await client.upload(number, 90_000)
    assert (await client.answer(number)).status == 200
    client.close()
    client = await open_h2(await make_rig(echo, body_limit=10_000))
    number = client.begin("POST", "/", end=False)
    client.send(number, b"x" * 16_000)
    answer = await client.answer(number)
    assert (answer.status, answer.ended) == (413, True)
    await client.until(lambda: answer.reset is not None)
    assert answer.reset == ErrorCodes.NO_ERROR  # it need not send the rest
    assert (await client.get()).status == 200
    client.begin("GET", "/", *(("x-long", "\xff" * 10_000) for _ in range(15)))  # more than is decoded
    goodbye = await client.end_of_connection()
    assert goodbye is not None
    assert goodbye.error_code == ErrorCodes.ENHANCE_YOUR_CALM
    client.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ({":method": "CONNECT", ":path": None, ":scheme": None}, 405),
        ({":authority": "nobody.localhost"}, 404),
        ({":authority": "a b"}, 400),
        ({":path": "/a", ":method": "BREW COFFEE"}, 400),
        ({":method": "PROPFIND"}, 200),
        ({":path": "/%ff%fe"}, 200),
        ({":path": "/x", "expect": "a miracle"}, 417),
        ({":path": "/_web/nobody/", ":authority": "127.0.0.1"}, 404),
        ({":path": "http://other/", ":authority": HOST}, 404),
        ({"content-length": "7"}, 400),  # and there is no body
    ],
)
async def test_heads_of_other_kinds(make_rig: MakeRig, head: dict[str, str | None], status: int) -> None:
    client = await open_h2(await make_rig(echo))
    fields = {":method": "GET", ":scheme": "http", ":authority": HOST, ":path": "/", **head}
    number = client.wire.get_next_available_stream_id()
    client.answers[number] = answer = Answer()
    client.wire.send_headers(number, [(name, value) for name, value in fields.items() if value is not None], True)
    client.flush()
    await client.answer(number)
    assert answer.status == status
    client.close()


async def test_websockets_beside_requests(make_rig: MakeRig) -> None:
    """On one connection; each is one input, and one that is left is over."""
    left: asyncio.Queue[int] = asyncio.Queue()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await echo(scope, receive, send)
            return
        assert (scope["http_version"], scope["scheme"], scope["query_string"]) == ("2", "ws", b"a=1")
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"X-Own", b"1"), (b"bad\nname", b"1")]})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        left.put_nowait(message["code"])

    rig = await make_rig(app, limit=300)
    client = await open_h2(rig)
    lines = [await open_line(client, "/ws?a=1", ("cookie", "a=b")) for _ in range(60)]
    assert {line.answer.headers["x-own"] for line in lines} == {"1"}
    wires = [Connection(ConnectionType.CLIENT) for _ in lines]
    for number, (line, wire) in enumerate(zip(lines, wires, strict=True)):
        line.write(wire.send(TextMessage(f"message {number}")))
    assert (await client.get()).status == 200
    for number, (line, wire) in enumerate(zip(lines, wires, strict=True)):
        wire.receive_data(await line.read())
        assert [event.data for event in wire.events()] == [f"message {number}"]
    assert rig.dispatch.scheduler.pools["fu-1"].assigned == 60  # each is an input, as long as it is open
    client.wire.reset_stream(lines[0].number, ErrorCodes.CANCEL)
    client.flush()
    assert await left.get() == 1006
    lines[1].end()  # without a close frame
    assert await left.get() == 1006
    assert await lines[1].read() == b""
    lines[2].write(wires[2].send(CloseConnection(4002, "enough")))
    assert await left.get() == 4002
    wires[2].receive_data(await lines[2].read())
    (goodbye,) = wires[2].events()
    assert goodbye.code == 4002
    assert await lines[2].read() == b""
    assert lines[2].answer.ended
    client.close()
    assert [await left.get() for _ in lines[3:]] == [1006] * 57


async def test_a_websocket_that_nobody_reads_holds_up_itself_alone(make_rig: MakeRig) -> None:
    """In both directions: an app that does not receive, and a client that opens no windows."""
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await echo(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/pour":
            for number in range(200):
                await send({"type": "websocket.send", "bytes": bytes(1 << 20)})
                sent.append(number)
        await asyncio.Event().wait()

    rig = await make_rig(app, limit=300)
    client = await open_h2(rig, greedy=False)
    pouring = await open_line(client, "/pour")
    sleeping = await open_line(client, "/sleep")
    wire = Connection(ConnectionType.CLIENT)
    for _ in range(20):
        sleeping.write(wire.send(BytesMessage(bytes(1 << 20))))
    other = await open_h2(rig)
    assert (await other.get()).status == 200
    while pouring.answer.size < 65535:  # the window of a client that gives no other
        await client.turn()
    numbers = []
    for _ in range(5):
        assert (await other.get()).status == 200
        numbers.append(len(sent))
    assert numbers[-1] < 10
    assert client.wire.local_flow_control_window(sleeping.number) < 1 << 20
    assert len(sleeping._unsent) > 10 << 20
    client.close()
    other.close()


@pytest.mark.parametrize(
    ("protocol", "version", "status"), [("connect-udp", "13", 501), ("websocket", "12", 426), ("websocket", "", 426)]
)
async def test_other_protocols_are_refused(make_rig: MakeRig, protocol: str, version: str, status: int) -> None:
    client = await open_h2(await make_rig(echo))
    more = [("sec-websocket-version", version)] if version else []
    answer = await client.answer(client.begin("CONNECT", "/", (":protocol", protocol), *more, end=False))
    assert answer.status == status
    assert (await client.get()).status == 200
    client.close()


@pytest.mark.parametrize(
    "field",
    [("connection", "close"), ("transfer-encoding", "chunked"), ("upgrade", "websocket"), ("te", "gzip"),
     ("X-Upper", "1"), ("x-nul", "a\0b"), ("x-line", "a\r\nb"), ("host", "other"), ("", "1"), (":custom", "1"),
     ("content-length", "+7"), ("content-length", "7_0")],
)  # fmt: skip
async def test_malformed_heads_reach_no_app(make_rig: MakeRig, field: tuple[str, str]) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await echo(scope, receive, send)

    client = await open_h2(await make_rig(app))
    client.begin("GET", "/", field)
    goodbye = await client.end_of_connection()
    assert goodbye is not None
    assert goodbye.error_code == ErrorCodes.PROTOCOL_ERROR
    assert not seen
    client.close()


def reset_at_once(rig: Rig, client: H2Client) -> bytes:
    data = b""
    for number in range(1, 1201, 2):
        head = client.wire.encoder.encode(
            [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", "/")]
        )
        data += HeadersFrame(number, head, flags=["END_HEADERS", "END_STREAM"]).serialize()
        data += RstStreamFrame(number, ErrorCodes.CANCEL).serialize()
    return data


FLOODS = {
    "reset": reset_at_once,
    "ping": lambda *_: PingFrame(0, b"12345678").serialize() * 5000,
    "settings": lambda *_: SettingsFrame(0, {4: 65535}).serialize() * 5000,
    "priority": lambda *_: PriorityFrame(1, 0, 16, False).serialize() * 5000,
    "continuation": lambda *_: HeadersFrame(1, b"").serialize() + ContinuationFrame(1, b"").serialize() * 5000,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_floods_end_the_connection(make_rig: MakeRig, name: str) -> None:
    seen = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        seen += 1
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app)
    client = await open_h2(rig)
    client.writer.write(FLOODS[name](rig, client))
    goodbye = await client.end_of_connection()
    assert goodbye is not None
    assert goodbye.error_code in (ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR)
    assert seen < 250
    client.close()
    other = await open_h2(rig)
    assert (await other.get()).status == 200
    other.close()


async def test_more_streams_than_allowed(make_rig: MakeRig) -> None:
    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        await receive()

    client = await open_h2(await make_rig(app, limit=200))
    client.wire.remote_settings.max_concurrent_streams = 1000
    client.wire.remote_settings.acknowledge()
    for _ in range(101):
        client.begin()
    goodbye = await client.end_of_connection()
    assert goodbye is not None
    assert goodbye.error_code != ErrorCodes.NO_ERROR
    client.close()


async def test_what_takes_too_long_to_arrive(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo, head_timeout=1.0, body_timeout=1.0, idle_timeout=1.0)
    client = await open_h2(rig)
    number = client.begin("POST", "/", end=False)
    client.send(number, b"half")
    assert (await client.answer(number)).status == 408
    goodbye = await client.end_of_connection()  # and then the idle connection ends
    assert goodbye is not None
    assert goodbye.error_code == ErrorCodes.NO_ERROR
    client.close()
    assert (await rig.raw(PREFACE[:10])).startswith(b"HTTP/1.1 408")
    await rig.raw(PREFACE)


async def test_a_preface_in_pieces_and_one_that_is_none(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    for i in range(len(PREFACE)):
        writer.write(PREFACE[i : i + 1])
        await asyncio.sleep(0)
    assert (await reader.readexactly(9))[3] == 4  # SETTINGS
    writer.close()
    request = f"PROPFIND / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    for part in (request[:2], request[2:3], request[3:]):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.01)
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_slow_result_is_fetched_from_its_own_url(make_rig: MakeRig) -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app, redirect_after=0.3)
    client = await open_h2(rig)
    moved = await client.get("/slow?a=b")
    assert moved.status == 303
    where = moved.headers["location"]
    assert (await client.get(where)).status == 303
    rig.be_patient()
    go.set()
    for _ in range(2):
        assert (await client.get(where)).body == b"GET\n/slow\na=b\n\n"
    client.close()


async def test_a_server_that_ends_says_so(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    client = await open_h2(rig)
    assert (await client.get()).status == 200
    for connection in list(rig.gateway.connections):
        connection.shut()
    goodbye = await client.end_of_connection()
    assert goodbye is not None
    assert (goodbye.error_code, goodbye.last_stream_id) == (ErrorCodes.NO_ERROR, 1)
    client.close()


FRAME = st.tuples(
    st.integers(0, 11), st.integers(0, 255), st.integers(0, 5), st.binary(max_size=64), st.integers(-2, 2)
)


def frame(kind: int, flags: int, stream: int, data: bytes, off: int) -> bytes:
    """A frame that may be of a wrong length."""
    return max(0, len(data) + off).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data


async def test_whatever_comes_the_gateway_goes_on(make_rig: MakeRig, caplog: pytest.LogCaptureFixture) -> None:
    rig: Rig = await make_rig(echo)
    loop = asyncio.get_running_loop()

    async def send(frames: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(PREFACE + SettingsFrame(0).serialize() + b"".join(frames))
        writer.write_eof()
        try:
            await asyncio.wait_for(reader.read(-1), 200)
        except ConnectionError:
            pass
        writer.close()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(FRAME.map(lambda parts: frame(*parts)), max_size=8))
    def check(frames: list[bytes]) -> None:
        asyncio.run_coroutine_threadsafe(send(frames), loop).result(20)

    with caplog.at_level(logging.ERROR):
        await asyncio.to_thread(check)
        client = await open_h2(rig)
        assert (await client.get()).status == 200
        client.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
