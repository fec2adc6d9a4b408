"""Peers of the server for tests: clients, and a worker without containers that builds images on paper."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from intermodal.home import Home
from modal._protocol.aio import Connection, Handlers, Stream, connect
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.messages.app import AppCreate, AppCreated, AppPublish, AppPublished
from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources
from modal._protocol.messages.image import BuildLog, ImageBuild, ImageBuilt, ImageConfig
from modal._protocol.messages.wire import Done, Hello
from modal._protocol.messages.worker import (
    WorkerImageBuild,
    WorkerImageBuilt,
    WorkerRegister,
    WorkerRegistered,
    WorkerStop,
)

RECIPE: list[dict[str, Any]] = [{"kind": "debian_slim", "python_version": "3.11"}]
SOURCE = Path(__file__).parents[3] / "src"


def hello(role: str, **fields: str) -> Hello:
    return Hello(role, VERSION_MIN, VERSION_MAX, "0", platform.python_version(), **fields)


async def client(home: Home) -> Connection:
    """A connection of the directory's owner."""
    return await connect(home.address, hello("client"))


class PaperWorker:
    """Registers, builds images at once, starts nothing."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.connection: Connection
        self.stopped: list[bool] = []
        self.builds = 0

    async def start(self) -> None:
        handlers = Handlers()
        handlers.stream(WorkerImageBuild)(self._build)
        handlers.unary(WorkerStop)(self._stop)
        self.connection = await connect(self.home.address, hello("worker", worker_id="wo-paper"), handlers)
        # No cores: nothing can be placed here, so that inputs wait.
        register = WorkerRegister("wo-paper", "paper", 0.0, 0, runtimes=["host"])
        await self.connection.request(register, WorkerRegistered)

    async def _build(self, connection: Connection, message: WorkerImageBuild, stream: Stream) -> None:
        self.builds += 1
        await stream.send(BuildLog("start", "base", 0, message.image_id))
        (self.home.layers / "layer").mkdir(exist_ok=True)
        config = ImageConfig(["layer"], python="/usr/bin/python3", python_version="3.11.2")
        await stream.send(WorkerImageBuilt(message.image_id, config, False, 0.1))

    async def _stop(self, connection: Connection, message: WorkerStop) -> Done:
        self.stopped.append(message.keep_containers)
        return Done()


async def build_image(connection: Connection) -> str:
    """The id of an image that exists from now on."""
    stream = connection.open(ImageBuild(RECIPE))
    async for item in stream:
        if isinstance(item, ImageBuilt):
            return item.image_id
    raise AssertionError("the build did not end with ImageBuilt")


def spec(image_id: str, name: str = "f", **fields: Any) -> FunctionSpec:
    return FunctionSpec(name, "m", name, image_id=image_id, resources=Resources(), autoscaler=Autoscaler(), **fields)


async def deploy(connection: Connection, image_id: str, name: str = "app") -> AppPublished:
    message = AppPublish("", name, functions=[spec(image_id)], deploy=True)
    return await connection.request(message, AppPublished)


async def run(connection: Connection, image_id: str) -> AppPublished:
    """An ephemeral app with one function; nobody holds it."""
    app = await connection.request(AppCreate("script.py"), AppCreated)
    return await connection.request(AppPublish(app.app_id, functions=[spec(image_id)]), AppPublished)
