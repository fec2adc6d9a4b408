"""HTTP/1.1 through the gateway, held against h11's view of the same bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import pytest

from tests.integration.gateway.conftest import HOST, MakeRig, Rig


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked: a line for each fact, then the body."""
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    lines = [scope["method"].encode(), scope["raw_path"], scope["query_string"]]
    lines += [name + b"=" + value for name, value in scope["headers"] if name.startswith(b"x-")]
    answer = b"\n".join([*lines, b"", body])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-double", b"1"), (b"x-double", b"2")]})
    await send({"type": "http.response.body", "body": answer})


def responses(data: bytes, methods: list[bytes]) -> list[tuple[int, bytes]]:
    """What a strict client reads in these bytes: status and body of each response."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    found = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        client.send(h11.EndOfMessage())
        status, body = 0, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(b"")
                continue
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise AssertionError("no whole response")
        found.append((status, body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
    return found


def request(method: str = "GET", target: str = "/", *headers: str, body: bytes = b"", close: bool = True) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def test_what_arrives_is_what_was_sent(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    data = request("POST", "/a%20b?q=1&r", "X-One: 1", "X-One: 2", "Content-Length: 4", body=b"body")
    [(status, body)] = responses(await rig.raw(data), [b"POST"])
    assert status == 200
    assert body == b"POST\n/a%20b\nq=1&r\nx-one=1\nx-one=2\n\nbody"


async def test_chunks_extensions_and_trailers(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    chunked = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: late\r\n\r\n"
    data = request("POST", "/", "Transfer-Encoding: chunked", body=chunked)
    [(status, body)] = responses(await rig.raw(data), [b"POST"])
    assert (status, body) == (200, b"POST\n/\n\n\nabcde")


async def test_pipelined_requests_are_answered_in_order(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    data = b"".join(request("GET", f"/{i}", close=i == 9) for i in range(10))
    found = responses(await rig.raw(data), [b"GET"] * 10)
    assert [body.split(b"\n")[1] for _status, body in found] == [b"/%d" % i for i in range(10)]


async def test_pipelined_behind_a_body_that_comes_slowly(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request("POST", "/1", "Content-Length: 6", body=b"abc", close=False))
    await asyncio.sleep(0.05)
    writer.write(b"def" + request("GET", "/2"))
    found = responses(await reader.read(-1), [b"POST", b"GET"])
    writer.close()
    assert found[0][1].endswith(b"abcdef")
    assert found[1][1].startswith(b"GET\n/2")


async def test_head_has_the_head_alone(make_rig: MakeRig) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})

    rig: Rig = await make_rig(app)
    data = await rig.raw(request("HEAD", "/", close=False) + request("GET", "/"))
    assert responses(data, [b"HEAD", b"GET"]) == [(200, b""), (200, b"hello")]


async def test_the_continue_comes_when_the_request_is_accepted(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request("POST", "/", "Expect: 100-continue", "Content-Length: 3"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await reader.read(-1)).endswith(b"abc")
    writer.close()
    unknown = b"POST / HTTP/1.1\r\nHost: nobody.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    refused = await rig.raw(unknown, end=True)
    assert refused.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("target", [f"http://{HOST}/x?y", f"HTTP://{HOST}:80/x?y"])
async def test_the_absolute_form(make_rig: MakeRig, target: str) -> None:
    rig: Rig = await make_rig(echo)
    data = f"GET {target} HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n".encode()
    [(status, body)] = responses(await rig.raw(data), [b"GET"])
    assert (status, body[:8]) == (200, b"GET\n/x\ny")


async def test_http_1_0(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    data = await rig.raw(f"GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in data
    assert b"chunked" not in data


HEAD = f"POST / HTTP/1.1\r\nHost: {HOST}\r\n".encode()
GET = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n".encode()


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        pytest.param(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}, id="cl-te"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", {400}, id="te-cl"),
        pytest.param(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}, id="two-lengths"),
        pytest.param(HEAD + b"Content-Length: +3\r\n\r\nabc", {400}, id="signed-length"),
        pytest.param(HEAD + b"Content-Length: 3, 3\r\n\r\nabc", {400}, id="length-list"),
        pytest.param(HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400, 501}, id="te-unknown"),
        pytest.param(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", {400, 501}, id="te-gzip"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", {400, 501}, id="te-not-last"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", {400}, id="chunk-hex"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", {400}, id="chunk-sign"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n", {400}, id="chunk-overflow"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", {400}, id="chunk-long"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", {400}, id="chunk-lf"),
        pytest.param(GET + b"X: a\r\n b\r\n\r\n", {400}, id="obs-fold"),
        pytest.param(GET + b"X: a\rb\r\n\r\n", {400}, id="bare-cr"),
        pytest.param(GET + b"X: a\nY: b\r\n\r\n", {400}, id="bare-lf"),
        pytest.param(GET + b"X: a\0b\r\n\r\n", {400}, id="nul"),
        pytest.param(GET + b"X : a\r\n\r\n", {400}, id="space-before-colon"),
        pytest.param(GET + b": a\r\n\r\n", {400}, id="no-name"),
        pytest.param(GET + b"Host: other\r\n\r\n", {400}, id="two-hosts"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", {400}, id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", {400}, id="bad-host"),
        pytest.param(f"GET / HTTP/2.0\r\nHost: {HOST}\r\n\r\n".encode(), {505, 400}, id="version"),
        pytest.param(b"FOO / HTTP/1.1\r\n\r\n", {501}, id="method"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", {405}, id="connect"),
        pytest.param(GET + b"X: " + b"a" * 70_000 + b"\r\n\r\n", {431}, id="head-too-large"),
        pytest.param(GET + b"X: " + b"a" * 200_000, {431}, id="head-without-end"),
        pytest.param(HEAD + b"Content-Length: %d\r\n\r\n" % (5 << 30), {413}, id="body-too-large"),
        pytest.param(
            f"POST / HTTP/1.0\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode(), {400}, id="te-1.0"
        ),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", {400}, id="scheme"),
    ],
)
async def test_what_could_smuggle_is_refused(make_rig: MakeRig, data: bytes, statuses: set[int]) -> None:
    """And nothing behind it on the connection is taken for a request."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app)
    answer = await rig.raw(data + b"GET /smuggled HTTP/1.1\r\nHost: " + HOST.encode() + b"\r\n\r\n", end=False)
    assert int(answer.split(b" ", 2)[1]) in statuses, answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "/smuggled" not in seen


async def test_a_large_head_is_fine_up_to_the_limit(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    [(status, body)] = responses(await rig.raw(request("GET", "/", "X-Long: " + "a" * 60_000)), [b"GET"])
    assert status == 200
    assert len(body) > 60_000


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"content-length", b"3")], b"too long"),
        ([(b"content-length", b"x")], b"abc"),
        ([(b"bad name", b"1")], b""),
        ([(b"x", b"a\r\nset-cookie: b")], b""),
        ([(b"content-length", b"3"), (b"content-length", b"4")], b"abc"),
    ],
)
async def test_an_app_cannot_break_the_framing(make_rig: MakeRig, headers: Any, body: bytes) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    rig: Rig = await make_rig(app)
    [(status, text)] = responses(await rig.raw(request()), [b"GET"])
    assert status == 502
    assert b"cannot be sent" in text


async def test_what_apps_do_wrong_is_said(make_rig: MakeRig) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/before":
            raise ValueError("boom")
        if scope["path"] == "/nothing":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("boom")

    rig: Rig = await make_rig(app)
    for path in ("/before", "/nothing"):
        [(status, text)] = responses(await rig.raw(request("GET", path)), [b"GET"])
        assert status == 500
        assert b"raised" in text
        assert b"boom" not in text  # a deployed app tells strangers nothing
    broken = await rig.raw(request("GET", "/after"))
    assert broken.startswith(b"HTTP/1.1 200")
    assert not broken.endswith(b"0\r\n\r\n")  # the client can tell that it is not whole


async def test_a_client_that_leaves_cancels_its_input(make_rig: MakeRig) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        begun.set()
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    rig: Rig = await make_rig(app)
    _reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request(close=False))
    await begun.wait()
    writer.close()
    await asyncio.wait_for(ended.wait(), 200)
    while rig.dispatch.scheduler.pools["fu-1"].assigned:  # the slot is free again
        await asyncio.sleep(0.01)
    assert not rig.calls.calls


async def test_streams_are_held_up_by_a_slow_reader(make_rig: MakeRig) -> None:
    sent = 0

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(150):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent += 100_000
        await send({"type": "http.response.body", "body": b""})

    rig: Rig = await make_rig(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1 << 16)
    writer.write(request())
    await reader.readuntil(b"\r\n\r\n")
    before = -1
    while before != sent:  # until it does not go on any more
        before = sent
        await asyncio.sleep(0.2)
    assert sent < 10_000_000
    [(_status, body)] = responses(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + await reader.read(-1), [b"GET"]
    )
    writer.close()
    assert len(body) == 15_000_000


async def test_uploads_are_held_up_by_a_slow_app(make_rig: MakeRig) -> None:
    go, size = asyncio.Event(), 0

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        nonlocal size
        await go.wait()
        more = True
        while more:
            message = await receive()
            size += len(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(size).encode()})

    rig: Rig = await make_rig(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.transport.set_write_buffer_limits(high=1 << 16)
    writer.write(request("POST", "/", "Content-Length: 16000000"))
    sending = asyncio.create_task(_send_all(writer, 16_000_000))
    _done, late = await asyncio.wait([sending], timeout=0.5)
    assert late  # nobody reads it yet
    go.set()
    await sending
    assert (await reader.read(-1)).endswith(b"16000000")
    writer.close()


@pytest.mark.parametrize("waits_for", ["container", "parameters"])
async def test_an_upload_waits_for_its_container(make_rig: MakeRig, waits_for: str) -> None:
    """It is neither lost nor kept in memory while a container, or the variant of a class, is in the making."""
    rig: Rig = await make_rig(echo, parameters=[["size", "int", True, 1]] if waits_for == "parameters" else [])
    gate = rig.may_bind if waits_for == "parameters" else rig.may_start
    gate.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1 << 26)
    writer.transport.set_write_buffer_limits(high=1 << 16)
    writer.write(request("POST", "/", "Content-Length: 16000000"))
    sending = asyncio.create_task(_send_all(writer, 16_000_000))
    _done, late = await asyncio.wait([sending], timeout=0.5)
    assert late  # most of it has not been taken
    small = asyncio.create_task(rig.raw(request("POST", "/", "Content-Length: 5", body=b"small")))
    gate.set()
    rig.may_bind.set()
    await sending
    [(status, body)] = responses(await reader.read(-1), [b"POST"])
    writer.close()
    assert status == 200
    assert body.endswith(b"\n\n" + b"y" * 16_000_000)
    assert (await small).endswith(b"\n\nsmall")


async def _send_all(writer: asyncio.StreamWriter, size: int) -> None:
    for _ in range(size // 100_000):
        writer.write(b"y" * 100_000)
        await writer.drain()


async def test_what_takes_too_long_to_arrive(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo, head_timeout=1.0, body_timeout=1.0, idle_timeout=1.0)
    assert (await rig.raw(b"GET / HT")).startswith(b"HTTP/1.1 408")
    assert (await rig.raw(HEAD + b"Content-Length: 5\r\n\r\nab")).startswith(b"HTTP/1.1 408")
    assert (await rig.raw(GET + b"\r\n")).startswith(b"HTTP/1.1 200")  # and then the idle connection ends


async def test_a_body_that_stops_half_way(make_rig: MakeRig) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    rig: Rig = await make_rig(app)
    _reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(HEAD + b"Content-Length: 5\r\n\r\nab")
    await begun.wait()
    writer.close()
    await asyncio.wait_for(gone.wait(), 200)


async def test_the_rate_limit(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo, rate=0.2, burst=15.0)
    statuses = [int((await rig.raw(request())).split(b" ")[1]) for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]


async def test_requests_wait_for_their_turn(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo, limit=3)
    answers = await asyncio.gather(*(rig.raw(request("GET", f"/{i}")) for i in range(50)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


async def test_a_slow_result_is_fetched_from_its_own_url(make_rig: MakeRig) -> None:
    go, runs = asyncio.Event(), 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal runs
        runs += 1
        await go.wait()
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app, redirect_after=0.3)
    moved = await rig.raw(request("POST", "/slow?a=b", "Content-Length: 2", body=b"hi"))
    assert moved.startswith(b"HTTP/1.1 303")
    where = next(line[10:] for line in moved.decode().split("\r\n") if line.startswith("location: "))
    assert where.startswith("/slow?a=b&__modal_function_call_id=fc-")
    again = await rig.raw(request("GET", where))
    assert again.startswith(b"HTTP/1.1 303")
    assert where in again.decode()
    rig.be_patient()
    go.set()
    for _ in range(2):
        [(status, body)] = responses(await rig.raw(request("GET", where)), [b"GET"])
        assert (status, body) == (200, b"POST\n/slow\na=b\n\nhi")
    assert runs == 1
    assert (await rig.raw(request("GET", where[:-3] + "AAA"))).startswith(b"HTTP/1.1 404")


async def test_the_runner_comes_back_after_a_lost_link(make_rig: MakeRig) -> None:
    rig: Rig = await make_rig(echo)
    assert (await rig.raw(request())).startswith(b"HTTP/1.1 200")
    for link in list(rig.gateway._links.values()):
        link.close()
    assert (await rig.raw(request())).startswith(b"HTTP/1.1 200")
