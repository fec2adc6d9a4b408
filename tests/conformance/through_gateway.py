"""A pytest plugin for the test suites of Starlette and FastAPI: their TestClient reaches each app through the gateway.

Loaded into the suite's own process with `-p through_gateway` (see test_asgi_suites.py). An app that a test gives to the
client is put aside; what the client sends goes over TCP to a real gateway, from there to the runner's web side, and
only then to the app; what the app answers comes back the same way. The test hears of an exception of the app as always.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import itertools
import shutil
import tempfile
import threading
from concurrent.futures import Future
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import h11
import starlette.testclient
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

NUMBER, CLIENT, SCHEME = b"x-through-number", b"x-forwarded-for", b"x-forwarded-proto"
ADDED = {b"date", b"connection", b"transfer-encoding", b"content-length"}  # by the gateway, where the app has none
HANDSHAKE = {
    b"connection",
    b"upgrade",
    b"sec-websocket-key",
    b"sec-websocket-version",
    b"host",
    b"sec-websocket-protocol",
}

_spec = importlib.util.spec_from_file_location(
    "gateway_rig", Path(__file__).parents[1] / "integration" / "gateway" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
_rig = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_rig)


class Entry:
    """One request: the app, and how it ended."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self.app, self.scope = app, scope
        self.sent: set[bytes] = set()  # names of the headers that the app sent
        self.started = self.denied = False
        self.error: BaseException | None = None
        self.debug: list[dict[str, Any]] = []
        self.done: Future[None] = Future()


class Place:
    """The gateway, in a thread of its own."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.numbers = itertools.count()
        self.loop = asyncio.new_event_loop()
        self.port = 0
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._open(), self.loop).result(30)

    async def _open(self) -> None:
        directory = tempfile.mkdtemp(prefix="im-suite-", dir="/tmp")
        atexit.register(shutil.rmtree, directory, True)
        home = _rig.Home(Path(directory))
        settings = _rig.WebSettings(trusted=(ip_network("127.0.0.1/32"),))
        self.rig = rig = _rig.Rig(home, self.serve, settings, 1000, [])
        await rig.open()
        self.port = rig.port
        (route,) = rig.routes._apps["ap-1"]
        rig.routes.find = lambda _host: route  # whatever a test's client calls its server

    async def serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The app, at the end of the way."""
        headers = [pair for pair in scope["headers"] if pair[0] not in (NUMBER, CLIENT, SCHEME)]
        number = next(int(value) for name, value in scope["headers"] if name == NUMBER)
        entry = self.entries.pop(number)
        inner = {**scope, "headers": headers, "root_path": entry.scope.get("root_path", "")}
        inner["state"] = entry.scope.get("state", {})
        if scope["type"] == "websocket":
            theirs = {name: value for name, value in entry.scope["headers"] if name in HANDSHAKE}
            inner["headers"] = [(name, theirs.get(name, value)) for name, value in headers]
        else:
            inner["extensions"] = {"http.response.debug": {}}

        async def told(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.debug":
                entry.debug.append(message)
                return
            await send(message)
            if message["type"].endswith(("response.start", "accept", "close")):
                entry.started = True
                entry.denied = message["type"] == "websocket.http.response.start"
                entry.sent = {name.lower() for name, _value in message.get("headers", ())}

        try:
            await entry.app(inner, receive, told)
        except BaseException as error:
            entry.error = error
            raise
        finally:
            entry.done.set_result(None)


class Through:
    """An ASGI app that sends all it gets through the gateway to another one."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        entry, number = Entry(self._app, scope), next(place.numbers)
        place.entries[number] = entry
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        extra = [(NUMBER, b"%d" % number), (CLIENT, scope["client"][0].encode())]
        extra.append((SCHEME, b"https" if scope["scheme"] in ("https", "wss") else b"http"))
        try:
            if scope["type"] == "websocket":
                with anyio.CancelScope(shield=True):  # the client does not wait for an app that is further away
                    await self._websocket(entry, extra, receive, send, reader, writer)
            else:
                await self._http(entry, extra, receive, send, reader, writer)
        finally:
            writer.close()

    async def _http(self, entry: Entry, extra: Any, receive: Any, send: Any, reader: Any, writer: Any) -> None:
        scope = entry.scope
        wire = h11.Connection(h11.CLIENT)
        names = {name for name, _value in scope["headers"]}
        headers = scope["headers"] + extra
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body and not names & {b"content-length", b"transfer-encoding"}:
            headers.append((b"content-length", b"%d" % len(body)))
        request = h11.Request(method=scope["method"], target=target(scope), headers=headers)
        writer.write(wire.send(request))
        if body:
            writer.write(wire.send(h11.Data(data=body)))
        writer.write(wire.send(h11.EndOfMessage()))
        error: h11.RemoteProtocolError | None = None
        while True:
            try:
                event = wire.next_event()
            except h11.RemoteProtocolError as broken:
                error = broken  # a response that breaks off
                break
            if event is h11.NEED_DATA:
                wire.receive_data(await asyncio.wait_for(reader.read(65536), 200))
            elif isinstance(event, h11.Response):
                # An app that failed before it answered has its exception told, not the gateway's page.
                if entry.error is not None and not entry.started:
                    break
                for message in entry.debug:
                    await send(message)
                kept = [pair for pair in event.headers if pair[0] not in ADDED or pair[0] in entry.sent]
                await send({"type": "http.response.start", "status": event.status_code, "headers": kept})
            elif isinstance(event, h11.Data):
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                await send({"type": "http.response.body", "body": b""})
                break
        await self._end(entry)
        if error is not None:
            raise error

    async def _end(self, entry: Entry) -> None:
        if entry in place.entries.values():
            return  # the gateway has answered itself
        await asyncio.wait_for(asyncio.wrap_future(entry.done), 200)
        if entry.error is not None:
            raise entry.error

    async def _websocket(self, entry: Entry, extra: Any, receive: Any, send: Any, reader: Any, writer: Any) -> None:
        scope = entry.scope
        wire = WSConnection(ConnectionType.CLIENT)
        assert (await receive())["type"] == "websocket.connect"
        kept = [pair for pair in scope["headers"] if pair[0] not in HANDSHAKE]
        host = next(value for name, value in scope["headers"] if name == b"host").decode()
        request = Request(
            host=host, target=target(scope).decode(), subprotocols=scope["subprotocols"], extra_headers=kept + extra
        )
        writer.write(wire.send(request))
        sending = asyncio.create_task(self._send_messages(wire, receive, writer))
        try:
            await self._receive_messages(entry, wire, reader, writer, send)
            await self._end(entry)
        finally:
            sending.cancel()

    async def _send_messages(self, wire: WSConnection, receive: Any, writer: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                writer.write(wire.send(CloseConnection(message.get("code") or 1000, message.get("reason"))))
                return
            text = message.get("text")
            data = message.get("bytes")
            writer.write(wire.send(TextMessage(text) if text is not None else BytesMessage(data)))

    async def _receive_messages(self, entry: Entry, wire: WSConnection, reader: Any, writer: Any, send: Any) -> None:
        text, data = "", b""
        while True:
            for event in wire.events():
                if isinstance(event, AcceptConnection):
                    message = {
                        "subprotocol": event.subprotocol,
                        "headers": [tuple(map(bytes, pair)) for pair in event.extra_headers],
                    }
                    await send({"type": "websocket.accept", **message})
                elif isinstance(event, RejectConnection):
                    if not entry.denied:
                        if entry.started:
                            await send({"type": "websocket.close", "code": 1000, "reason": ""})
                        return
                    headers = [pair for pair in event.headers if pair[0] not in ADDED or pair[0] in entry.sent]
                    await send(
                        {"type": "websocket.http.response.start", "status": event.status_code, "headers": headers}
                    )
                elif isinstance(event, RejectData):
                    await send(
                        {
                            "type": "websocket.http.response.body",
                            "body": event.data,
                            "more_body": not event.body_finished,
                        }
                    )
                    if event.body_finished:
                        return
                elif isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        await send({"type": "websocket.send", "text": text})
                        text = ""
                elif isinstance(event, BytesMessage):
                    data += bytes(event.data)
                    if event.message_finished:
                        await send({"type": "websocket.send", "bytes": data})
                        data = b""
                elif isinstance(event, CloseConnection):
                    if entry.error is None and not (event.code == 1006):
                        await send({"type": "websocket.close", "code": event.code, "reason": event.reason or ""})
                    return
            got = await asyncio.wait_for(reader.read(65536), 200)
            if not got:
                return
            wire.receive_data(got)


def target(scope: dict[str, Any]) -> bytes:
    """Path and query as a client sends them."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string", b"")
    return bytes(path + b"?" + query if query else path)


place = Place()
_init = starlette.testclient.TestClient.__init__


def _through(self: Any, app: Any, *args: Any, **options: Any) -> None:
    if not starlette.testclient._is_asgi3(app):
        app = starlette.testclient._WrapASGI2(app)
    _init(self, Through(app), *args, **options)
    self.app = app


starlette.testclient.TestClient.__init__ = _through  # type: ignore[method-assign]
