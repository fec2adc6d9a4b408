"""The whole way of a request in one process: gateway, scheduler, the runner's web side, an app. No containers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intermodal.home import Home
from intermodal.runner.web import WebServer
from intermodal.server.calls import Calls
from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.gateway.gateway import Gateway
from intermodal.server.gateway.routes import Routes
from intermodal.server.gateway.settings import WebSettings
from intermodal.server.ids import new_id
from intermodal.server.scheduler import Scheduler
from intermodal.server.store.apps import new_app
from intermodal.server.store.functions import FunctionRow
from intermodal.worker.handover import Handover
from modal._protocol.frames import FrameBuffer
from modal._protocol.messages.app import AppState
from modal._protocol.messages.function import Autoscaler, FunctionHandle, FunctionSpec, Resources, WebSpec
from modal._protocol.messages.wire import Hello
from modal._protocol.messages.worker import RunnerReady

HOST = "ecorp--shop-web.localhost"


class Rig:
    """One function at HOST, served by `app`."""

    def __init__(
        self, home: Home, app: Any, settings: WebSettings, limit: int, parameters: list[Any], timeout: float = 300
    ) -> None:
        self.home = home
        self.app = app
        self.server: WebServer
        self._settings = settings
        self.dispatch = Dispatch(Scheduler(lambda: new_id("ta")))
        self.calls = Calls(self.dispatch, lambda *_: None, lambda _app: 0)
        self.dispatch.start_container = self._start
        self.dispatch.kill_container = self._kill
        self.killed: list[str] = []
        self.routes = Routes(settings, "ECorp", lambda _environment: "")
        self.gateway = Gateway(home, settings, self.routes, self.calls, self._bind, self._refusal)
        self.spec = FunctionSpec(
            "web",
            "shop",
            "web",
            Resources(),
            Autoscaler(),
            concurrent_max=limit,
            web=WebSpec("asgi"),
            timeout=int(timeout),
            class_parameters=parameters,
        )
        self.port = 0
        self._closed = False
        self.may_start = asyncio.Event()  # containers
        self.may_start.set()
        self.may_bind = asyncio.Event()  # class parameters

    async def open(self) -> None:
        app = new_app("ap-1", "en-1", "shop", "shop", AppState.DEPLOYED)
        self.routes.publish(app, [FunctionRow("fu-1", "ap-1", "web", self.spec, 1, True, "", {}, b"")])
        self.dispatch.scheduler.capacity.add("wo-1", 64.0, 64000, 0)
        self.dispatch.put_function("fu-1", "ap-1", self.spec, False)
        self.gateway.open()
        self._worker = await asyncio.start_unix_server(self._runner_calls, str(self.home.path / "runner.sock"))
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self.gateway.protocol, "127.0.0.1", 0, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._listener.close()
        self.gateway.close()
        if hasattr(self, "server"):
            await self.server.close()
        self._worker.close()
        if self.dispatch._timer is not None:
            self.dispatch._timer.cancel()
        await asyncio.sleep(0)

    async def _start(self, container: Container) -> None:
        """What a worker and a container do."""
        await self.may_start.wait()
        self._container_id = container.id
        self.server = WebServer(str(self.home.path / "runner.sock"), container.id, {"": self.app}, {"": {}})
        await self.server.open()
        self.dispatch._ready(container, RunnerReady())

    async def _runner_calls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameBuffer().feed(await reader.read(1000))
        hello = Hello.decode(frames[0].header, frames[0].body)
        descriptor = os.dup(writer.get_extra_info("socket").fileno())
        try:
            Handover(self.home).send(hello.container_id, descriptor)
        finally:
            os.close(descriptor)
        writer.transport.abort()

    def _kill(self, container: Container, _grace: float, reason: str) -> None:
        self.killed.append(reason)

    async def _bind(self, _message: Any) -> FunctionHandle:
        await self.may_bind.wait()
        return FunctionHandle("fu-1", "web", "ap-1", "shop")

    def _refusal(self, headers: Any) -> int:
        return 0 if (b"modal-key", b"right") in headers else 401

    def be_patient(self) -> None:
        """From now on no request is told to come back later, however busy this machine is."""
        self.gateway.settings = replace(self.gateway.settings, redirect_after=150.0)
        self.gateway._results._patience = 150.0

    async def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """Send bytes on a connection of their own; all that comes until the gateway closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        if end:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(-1), 200)
        finally:
            writer.close()


MakeRig = Callable[..., Any]


@pytest.fixture
async def make_rig() -> AsyncIterator[MakeRig]:
    """`await make_rig(app, limit=…, parameters=…, home=…, timeout=…, **settings)`; `home` of a closed rig."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            app: Any,
            limit: int = 100,
            parameters: Any = (),
            home: Home | None = None,
            timeout: float = 300,
            **settings: Any,
        ) -> Rig:
            if home is None:
                directory = tempfile.mkdtemp(prefix="im-rig-", dir="/tmp")
                stack.callback(shutil.rmtree, directory, True)
                home = Home(Path(directory))
            rig = Rig(home, app, replace(WebSettings(), **settings), limit, list(parameters), timeout)
            await rig.open()
            stack.push_async_callback(rig.close)
            return rig

        yield make
