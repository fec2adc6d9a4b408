"""Clients that mean harm or do harm: very many connections, very slow ones, paths that are no UTF-8."""

from __future__ import annotations

import asyncio
import resource
import sys
from typing import Any

import pytest

from intermodal.processes import allow_many_files
from tests.integration.gateway.conftest import HOST, MakeRig, Rig
from tests.integration.gateway.test_http import echo, request, responses

CROWD = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
sockets = []
for number in range(count):
    sockets.append(socket.create_connection(("127.0.0.1", port)))
    if number % 2:
        sockets[-1].sendall(b"GET / HTTP/1.1\\r\\nHost: ")  # and never goes on
print("here", flush=True)
sys.stdin.read()
"""


async def test_ten_thousand_connections(make_rig: MakeRig) -> None:
    """Half of them are idle, half have begun a request: others are served meanwhile, and nothing is left of them."""
    allow_many_files()
    count = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000)
    rig: Rig = await make_rig(echo)
    crowd = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CROWD,
        str(rig.port),
        str(count),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert crowd.stdin is not None
    assert crowd.stdout is not None
    assert await asyncio.wait_for(crowd.stdout.readline(), 200) == b"here\n"
    while len(rig.gateway.connections) < count:
        await asyncio.sleep(0.01)
    answers = await asyncio.gather(*(rig.raw(request("GET", f"/{i}")) for i in range(20)))
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    crowd.stdin.close()
    await crowd.wait()
    while rig.gateway.connections:
        await asyncio.sleep(0.01)


async def test_slow_loris(make_rig: MakeRig) -> None:
    """A head that comes byte by byte has no more time than one that does not come."""
    rig: Rig = await make_rig(echo, head_timeout=0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)

    async def drip() -> None:
        while True:
            writer.write(b"X")
            await asyncio.sleep(0.02)

    writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ".encode())
    dripping = asyncio.create_task(drip())
    try:
        assert (await asyncio.wait_for(reader.readline(), 200)).startswith(b"HTTP/1.1 408")
    finally:
        dripping.cancel()
        writer.close()


@pytest.mark.parametrize("path", ["/%ff%fe", "/a%00b", "/%E2%82", "/%zz", "/\u00e9", "/%"])
async def test_paths_that_are_no_utf_8(make_rig: MakeRig, path: str) -> None:
    """Reach the app as they are in `raw_path`, and in `path` so that it can be printed."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path"].encode()
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app)
    answer = await rig.raw(request("GET", path))
    [(status, body)] = responses(answer, [b"GET"])
    if status == 400:
        assert path == "/\u00e9"  # bytes that no URL may hold
        return
    assert status == 200
    assert body.split(b"\n")[1] == path.encode("latin-1")


async def test_an_app_that_does_not_end(make_rig: MakeRig) -> None:
    """Its client hears of the function's time limit, and other requests are served."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        await echo(scope, receive, send)

    rig: Rig = await make_rig(app, timeout=3)
    hanging = asyncio.create_task(rig.raw(request("GET", "/hang")))
    assert (await rig.raw(request())).startswith(b"HTTP/1.1 200")
    answer = await asyncio.wait_for(hanging, 200)
    assert answer.startswith(b"HTTP/1.1 504")
    assert b"did not finish in time" in answer
    assert (await rig.raw(request())).startswith(b"HTTP/1.1 200")
