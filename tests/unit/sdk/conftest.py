"""A server that keeps what it is asked, so that tests see what the SDK sends."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modal import _context
from modal._client import Client
from modal._protocol import aio
from modal._protocol.errors import Code, Fault
from modal._protocol.message import Message, to_json
from modal._protocol.messages.app import (
    AppAttach,
    AppCreate,
    AppCreated,
    AppEnded,
    AppLayoutGet,
    AppPublish,
    AppPublished,
    AppStop,
)
from modal._protocol.messages.call import BlobChunk
from modal._protocol.messages.file import FilePut, FilesMissing, FilesPut, MountKnown, MountPut
from modal._protocol.messages.function import FunctionBind, FunctionHandle, FunctionLookup, FunctionSpec
from modal._protocol.messages.image import BuildLog, ImageBuild, ImageBuilt
from modal._protocol.messages.secret import ObjectId, SecretCreate, SecretLookup
from modal._protocol.messages.volume import VolumeGet, VolumeInfo, Volumes
from modal._protocol.messages.wire import Done, Hello, Welcome
from modal._protocol.messages.worker import RunnerSpec

PYTHON = f"{__import__('sys').version_info.major}.{__import__('sys').version_info.minor}.1"


def handle_of(spec: FunctionSpec, app_id: str) -> FunctionHandle:
    return FunctionHandle(
        f"fu-{spec.name}",
        spec.name,
        app_id,
        "",
        spec.is_generator,
        spec.is_async,
        spec.is_class,
        spec.methods,
        spec.class_parameters,
        "http://web.test" if spec.web else "",
    )


class RecordingServer:
    """Answers what an app needs to start; runs nothing."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/server.sock"
        self.asked: list[Message] = []
        self.files: dict[str, bytes] = {}
        self.deployed: dict[str, FunctionHandle] = {}
        self.layout: list[FunctionHandle] = []
        self.refuse: dict[type, Fault] = {}
        self.python = PYTHON
        self._listeners: dict[str, aio.Stream] = {}
        self._stopped: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.asked if isinstance(message, kind)]

    def specs(self) -> dict[str, FunctionSpec]:
        """The functions of the last app that was published."""
        return {spec.name: spec for spec in self.of(AppPublish)[-1].functions}

    def mount(self, spec: FunctionSpec) -> dict[str, Any]:
        """Path to entry of everything that is mounted into a function's containers."""
        known = {self._mount_id(put): put for put in self.of(MountPut)}
        return {entry.path: entry for mount_id in spec.mount_ids for entry in known[mount_id].entries}

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    # -- in the thread
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        connections: list[aio.Connection] = []
        server = await aio.serve(self.address, self._greet, self._handlers(), connected=connections.append)
        self._ready.set()
        await self._over.wait()
        server.close()
        for connection in connections:
            connection.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _greet(self, _connection: aio.Connection, _hello: Hello) -> Welcome:
        return Welcome(1, "test", "sv-1", "ws", "main")

    @staticmethod
    def _mount_id(put: MountPut) -> str:
        return "mo-" + hashlib.sha256(repr([to_json(entry) for entry in put.entries]).encode()).hexdigest()[:22]

    def _answer(self, message: Any) -> Message:
        self.asked.append(message)
        fault = self.refuse.get(type(message))
        if fault is not None:
            raise fault
        if isinstance(message, AppCreate):
            return AppCreated(f"ap-{len(self.of(AppCreate))}", "http://app.test")
        if isinstance(message, AppPublish):
            app_id = message.app_id or "ap-deployed"
            handles = [handle_of(spec, app_id) for spec in message.functions]
            return AppPublished(app_id, handles, "http://app.test", 1)
        if isinstance(message, AppLayoutGet):
            return AppPublished(message.app_id, self.layout)
        if isinstance(message, AppStop):
            self._stopped.add(message.app_id)
            listener = self._listeners.pop(message.app_id, None)
            if listener is not None:
                listener.send_now(AppEnded(message.app_id))
                listener.end()
            return Done()
        if isinstance(message, SecretCreate):
            return ObjectId("st-" + hashlib.sha256(repr(sorted(message.values.items())).encode()).hexdigest()[:8])
        if isinstance(message, SecretLookup):
            return ObjectId(f"st-{message.name}", message.name)
        if isinstance(message, VolumeGet):
            prefix = "vo" if message.kind == "volume" else "nf"
            return Volumes([VolumeInfo(f"{prefix}-{message.name}", message.name, message.kind, 0.0)])
        if isinstance(message, FilesMissing):
            return FilesMissing([digest for digest in message.hashes if digest not in self.files])
        if isinstance(message, FilesPut):
            for digest, content in zip(message.hashes, message.contents, strict=True):
                assert hashlib.sha256(content).hexdigest() == digest
                self.files[digest] = content
            return Done()
        if isinstance(message, MountPut):
            assert all(entry.link or entry.hash in self.files for entry in message.entries)
            return MountKnown(self._mount_id(message))
        if isinstance(message, FunctionLookup):
            if message.name not in self.deployed:
                raise Fault(Code.NOT_FOUND, f"no function {message.name!r}")
            return self.deployed[message.name]
        if isinstance(message, FunctionBind):
            base = {handle.function_id: handle for handle in [*self.deployed.values(), *self.layout]}
            base.update(
                {f"fu-{spec.name}": handle_of(spec, "ap-1") for p in self.of(AppPublish) for spec in p.functions}
            )
            known = base[message.function_id]
            digest = hashlib.sha256(message.parameters + repr(message.options).encode()).hexdigest()[:8]
            return FunctionHandle(
                f"fu-{digest}", known.name, known.app_id, "", is_class=True, methods=known.methods,
                class_parameters=known.class_parameters,
            )  # fmt: skip
        return Done()

    def _handlers(self) -> aio.Handlers:
        handlers = aio.Handlers()

        async def answer(_connection: aio.Connection, message: Any) -> Message:
            return self._answer(message)

        streams = {AppAttach, ImageBuild, FilePut}
        for kind in Message.registry.values():
            if kind not in streams:
                handlers.unary(kind)(answer)

        @handlers.stream(AppAttach)
        async def attach(_connection: aio.Connection, message: AppAttach, stream: aio.Stream) -> None:
            self.asked.append(message)
            if message.app_id in self._stopped:
                await stream.send(AppEnded(message.app_id))
                return
            self._listeners[message.app_id] = stream
            await stream.receive()

        @handlers.stream(ImageBuild)
        async def build(_connection: aio.Connection, message: ImageBuild, stream: aio.Stream) -> None:
            self.asked.append(message)
            if ImageBuild in self.refuse:
                raise self.refuse[ImageBuild]
            image_id = "im-" + hashlib.sha256(repr(message.recipe).encode()).hexdigest()[:22]
            await stream.send(BuildLog("start", "=> Step 0: FROM base", 0, image_id))
            await stream.send(BuildLog("output", "building\n", 0, image_id))
            await stream.send(ImageBuilt(image_id, False, self.python, 0.5))

        @handlers.stream(FilePut)
        async def put(_connection: aio.Connection, message: FilePut, stream: aio.Stream) -> Message:
            self.asked.append(message)
            parts = []
            async for chunk in stream:
                assert isinstance(chunk, BlobChunk)
                parts.append(chunk.data)
            content = b"".join(parts)
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (message.hash, message.size)
            self.files[message.hash] = content
            return Done()

        return handlers


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingServer]:
    """The server that this process's client is configured for."""
    folder = tmp_path / "server"
    folder.mkdir()
    running = RecordingServer(folder)
    monkeypatch.setenv("MODAL_SERVER_URL", running.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Client.set_current(None)
    yield running
    Client.current().close()
    Client.set_current(None)
    running.close()


@pytest.fixture
def container(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunnerSpec]:
    """As if this process were the container of a function `f` of the app `ap-own`, with an input running."""
    from modal import _layout
    from modal._protocol.messages.function import Autoscaler, Resources

    spec = FunctionSpec(name="f", module="m", qualname="f", resources=Resources(), autoscaler=Autoscaler())
    runner = RunnerSpec("ta-1", "ap-own", "own-app", "fu-f", spec, "dev")
    monkeypatch.setattr(_context, "spec", runner)
    monkeypatch.setattr(_context, "_main_input", "in-ABC-0")
    monkeypatch.setattr(_layout, "_handles", {})
    yield runner
