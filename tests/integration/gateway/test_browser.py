"""A real browser: its WebSockets come by the connection of HTTP/2 that it has already (RFC 8441)."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.gateway.conftest import HOST, MakeRig

# A browser drops its connections when an interface of the machine comes or goes, as containers' do, and a WebSocket
# for which there is no connection of HTTP/2 comes by HTTP/1.1: it tries again then.
PAGE = """<!doctype html><script>
async function report(seen) {
    try { await fetch("/report", {method: "POST", body: JSON.stringify(seen)}); } catch { report(seen); }
}
async function run(left) {
    try { await fetch("/ready"); } catch { return run(left); }
    const seen = [];
    const socket = new WebSocket(`wss://${location.host}/ws`, ["first", "second"]);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { seen.push(socket.protocol); socket.send("h\\u00e9llo"); };
    socket.onmessage = (event) => {
        if (typeof event.data !== "string") {
            seen.push(event.data.byteLength);
            socket.send("close");
            return;
        }
        seen.push(event.data);
        if (seen.length === 3) socket.send(new Uint8Array(1500000).fill(7));
    };
    socket.onclose = (event) => {
        seen.push([event.code, event.reason, event.wasClean]);
        if (left && (event.code === 1006 || seen[1] === "1.1")) run(left - 1); else report(seen);
    };
}
run(20);
</script>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: apt-get install chromium")
async def test_chromium_has_its_websocket_by_http_2(make_rig: MakeRig, tmp_path: Path) -> None:
    reported: asyncio.Queue[Any] = asyncio.Queue()

    async def websocket(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "second"})
        await send({"type": "websocket.send", "text": scope["http_version"]})
        while (message := await receive())["type"] == "websocket.receive":
            if message.get("text") == "close":
                await send({"type": "websocket.close", "code": 4321, "reason": "enough"})
                return
            await send({**message, "type": "websocket.send"})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/report":
            reported.put_nowait(json.loads(body))
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
        await send(start)
        await send({"type": "http.response.body", "body": PAGE.encode()})

    rig = await make_rig(app)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    listener = await asyncio.get_running_loop().create_server(rig.gateway.protocol, "127.0.0.1", 0, ssl=context)
    url = f"https://{HOST}:{listener.sockets[0].getsockname()[1]}/"
    browser = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={tmp_path}", "--remote-debugging-port=0", url,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        assert await reported.get() == ["second", "2", "héllo", 1_500_000, [4321, "enough", True]]
    finally:
        browser.terminate()
        await browser.wait()
        listener.close()
