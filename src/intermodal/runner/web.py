"""Requests from outside: the container's connection to the gateway, and the exchanges on it.

The connection begins at the worker, as the runner's others do, and is handed over by it: frames then go
between gateway and runner directly. When the gateway goes away (the server was restarted), what was under
way is over for its clients, and the runner asks for a new connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, Awaitable, Callable, Optional, Union, cast

from intermodal.runner.web_http import HttpExchange
from intermodal.runner.web_websocket import WebSocketExchange
from modal._protocol.errors import ProtocolError
from modal._protocol.frames import VERSION_MAX, VERSION_MIN, FrameBuffer, Kind, pack
from modal._protocol.message import Message
from modal._protocol.messages.web import (
    WebClose,
    WebCredit,
    WebData,
    WebGone,
    WebMessage,
    WebRequest,
)
from modal._protocol.messages.wire import Hello
from modal._protocol.sending import FrameSender

AGAIN_SECONDS = 0.1  # between attempts to have a connection

AsgiApp = Callable[..., Awaitable[None]]
Exchange = Union[HttpExchange, WebSocketExchange]


class WebLink(FrameSender):
    """One connection to the gateway."""

    def __init__(self, server: WebServer) -> None:
        super().__init__()
        self._server = server
        self._buffer = FrameBuffer()
        self.exchanges: dict[int, Exchange] = {}
        self.lost = self.loop.create_future()

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        hello = Hello("runner-web", VERSION_MIN, VERSION_MAX, container_id=self._server.container_id)
        transport.write(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._corked = True
        try:
            for _kind, type_, token, header, body in self._buffer.feed(data):
                self._take(type_, token, header, body)
        except ProtocolError:
            if self._transport is not None:
                self._transport.abort()
        finally:
            self._corked = False
            self.flush()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._transport = None
        for exchange in list(self.exchanges.values()):
            exchange.gone("the gateway went away", True)
        if not self.lost.done():
            self.lost.set_result(None)

    # -- frames
    def _take(self, type_: int, token: int, header: bytes, body: bytes) -> None:
        if type_ == WebRequest.TYPE:
            self._server.begin(self, token, WebRequest.decode(header, body))
            return
        exchange = self.exchanges.get(token)
        if exchange is None:
            return  # it was under way when the exchange ended
        if type_ == WebData.TYPE:
            exchange.data(WebData.decode(header, body))
        elif type_ == WebCredit.TYPE:
            exchange.grant(WebCredit.decode(header, body).size)
        elif type_ == WebMessage.TYPE:
            exchange.message(WebMessage.decode(header, body))
        elif type_ == WebClose.TYPE:
            exchange.closed(WebClose.decode(header, body))
        elif type_ == WebGone.TYPE:
            gone = WebGone.decode(header, body)
            exchange.gone(gone.reason, gone.cancel)

    def send(self, token: int, message: Message) -> None:
        """One message of an exchange. What is sent during one turn of the loop leaves together."""
        self.send_frame(Kind.ITEM, message.TYPE, token, *message.encode())

    def close(self) -> None:
        if self._transport is not None:
            self.flush()
            self._transport.close()


class WebServer:
    """Serves the apps of one container: one for each web function (method name, "" for a function's own)."""

    def __init__(
        self, path: str, container_id: str, apps: dict[str, AsgiApp], states: dict[str, dict[str, Any]]
    ) -> None:
        self.container_id = container_id
        self.on_idle: Callable[[], None] = lambda: None
        self.set_input: Callable[[str], object] = lambda _input_id: None
        self._path = path
        self._apps = apps
        self._states = states
        self._link: Optional[WebLink] = None
        self._linking: Optional[asyncio.Task[None]] = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return bool(self._tasks)

    async def open(self) -> None:
        """The gateway can be given requests from now on."""
        await self._connect()
        self._linking = self._loop.create_task(self._keep_linked())

    async def _connect(self) -> None:
        _transport, self._link = await self._loop.create_unix_connection(lambda: WebLink(self), self._path)

    async def _keep_linked(self) -> None:
        while True:
            if self._link is not None:
                await self._link.lost
            self._link = None
            await asyncio.sleep(AGAIN_SECONDS)
            try:
                await self._connect()
            except OSError:
                continue  # the worker is away: it will be back, or this container will end

    def begin(self, link: WebLink, token: int, request: WebRequest) -> None:
        """Give a request to its app."""
        app = self._apps.get(request.method_name)
        state = self._states.get(request.method_name, {})
        kind: type[Exchange] = WebSocketExchange if request.websocket else HttpExchange
        exchange = kind(link, token, request, state)
        link.exchanges[token] = exchange
        task = self._loop.create_task(self._run(exchange, app, request))
        exchange.task = task
        self._tasks[task] = None
        task.add_done_callback(self._done)

    async def _run(self, exchange: Exchange, app: Optional[AsgiApp], request: WebRequest) -> None:
        self.set_input(request.input_id)
        if app is None:
            raise_missing = f"this container has no web function {request.method_name!r}"
            exchange.fail(RuntimeError(raise_missing))
            return
        try:
            await app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            exchange.cancelled()
        except BaseException as error:
            exchange.fail(error)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        else:
            exchange.finish()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # was reported already
        if not self._tasks:
            self.on_idle()

    async def close(self) -> None:
        """End: what is still under way is cancelled."""
        if self._linking is not None:
            self._linking.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5)
        if self._link is not None:
            self._link.close()
            await asyncio.sleep(0)
