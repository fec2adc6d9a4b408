"""A server that answers the command line and runs nothing: functions are callables of the test.

It lives in a thread with an event loop of its own, listens on a unix socket and keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modal._protocol import aio
from modal._protocol.errors import Code, Fault
from modal._protocol.message import Message
from modal._protocol.messages import app, call, container, file, function, image, log, secret
from modal._protocol.messages.wire import Done, Hello, Welcome


class FakeApp:
    """One app, its logs, and who listens to them."""

    def __init__(self, info: app.AppInfo) -> None:
        self.info = info
        self.entries: list[log.LogEntry] = []
        self.listeners: list[aio.Stream] = []
        self.handles: dict[str, function.FunctionHandle] = {}
        self.versions: list[app.AppVersion] = []
        self.stopped = asyncio.Event()


class FakeServer:
    """`functions[name]` is what a function of that name does; it may call `print_line`."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/server.sock"
        self.functions: dict[str, Callable[..., Any]] = {}
        self.apps: dict[str, FakeApp] = {}
        self.containers: list[container.ContainerInfo] = []
        self.secrets: dict[str, dict[str, str]] = {}
        self.environments: list[str] = ["main"]
        self.asked: list[Message] = []
        self.current_app = ""  # of the call that runs
        self.stop_delay = 0.0  # seconds that stopping an app takes
        self.changed = threading.Condition()
        self._handlers = self._make_handlers()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(100)

    # -- the test's side
    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(100)

    def wait_for(self, kind: type[Message], seconds: float = 100.0) -> Message:
        """The first message of this kind that was asked, once it is."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(isinstance(m, kind) for m in self.asked), seconds)
        return next(m for m in self.asked if isinstance(m, kind))

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.asked if isinstance(message, kind)]

    def add_app(self, name: str, state: str = "deployed", app_id: str = "") -> FakeApp:
        made = app.AppInfo(app_id or f"ap-{len(self.apps) + 1:022}", name, name, state, "main", 1_700_000_000.0)
        self.apps[made.app_id] = FakeApp(made)
        return self.apps[made.app_id]

    def print_line(self, app_id: str, text: str, stream: int = 1, container_id: str = "ta-1") -> None:
        """Something is printed in a container (from the loop's thread or any other)."""
        entry = log.LogEntry(time.time(), stream, text, container_id=container_id)
        fake = self.apps[app_id]
        fake.entries.append(entry)
        batch = log.LogBatch(app_id, [entry], len(fake.entries))

        def send() -> None:
            for listener in fake.listeners:
                listener.send_now(batch)

        self._loop.call_soon_threadsafe(send)

    # -- the server's side
    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        connections: list[aio.Connection] = []
        server = await aio.serve(self.address, self._greet, self._handlers, connected=connections.append)
        self._ready.set()
        await self._over.wait()
        server.close()
        for connection in connections:
            connection.abort()
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def _greet(self, _connection: aio.Connection, hello: Hello) -> Welcome:
        if hello.token_id == "ak-wrong":
            raise Fault(Code.AUTH, "The token is unknown to this server.")
        return Welcome(0, "0.0-fake", "sv-1", "my-workspace", "main", "http://dashboard.test")

    def _remember(self, message: Message) -> None:
        with self.changed:
            self.asked.append(message)
            self.changed.notify_all()

    def _make_handlers(self) -> aio.Handlers:
        handlers = aio.Handlers()
        for name, method in inspect.getmembers(self, inspect.ismethod):
            if name.startswith("on_"):
                kind = next(iter(inspect.signature(method, eval_str=True).parameters.values())).annotation
                streaming = len(inspect.signature(method).parameters) > 1
                (handlers.stream if streaming else handlers.unary)(kind)(self._wrapped(method, streaming))
        return handlers

    def _wrapped(self, method: Callable[..., Any], streaming: bool) -> Any:
        async def unary(_connection: aio.Connection, message: Message) -> Any:
            self._remember(message)
            return await method(message)

        async def stream(_connection: aio.Connection, message: Message, stream: aio.Stream) -> Any:
            self._remember(message)
            return await method(message, stream)

        return stream if streaming else unary

    def _find(self, name_or_id: str) -> FakeApp:
        for fake in self.apps.values():
            if name_or_id in (fake.info.app_id, fake.info.name):
                return fake
        raise Fault(Code.NOT_FOUND, f"There is no app {name_or_id!r}.")

    # -- apps
    async def on_app_create(self, message: app.AppCreate) -> Message:
        fake = self.add_app(message.name, "ephemeral")
        fake.info.description = message.description
        return app.AppCreated(fake.info.app_id, "http://dashboard.test/apps/x")

    async def on_app_publish(self, message: app.AppPublish) -> Message:
        if message.deploy:
            try:
                fake = self._find(message.name)
            except Fault:
                fake = self.add_app(message.name)
            fake.info.version += 1
        else:
            fake = self.apps[message.app_id]
        for spec in message.functions:
            fake.handles[spec.name] = function.FunctionHandle(
                f"fu-{fake.info.app_id}-{spec.name}", spec.name, fake.info.app_id, fake.info.name,
                spec.is_generator, spec.is_async, spec.is_class, spec.methods, spec.class_parameters,
            )  # fmt: skip
        return app.AppPublished(
            fake.info.app_id, list(fake.handles.values()), "http://dashboard.test/apps/x", fake.info.version
        )

    async def on_app_attach(self, message: app.AppAttach, stream: aio.Stream) -> None:
        fake = self.apps[message.app_id]
        known = [e for e in fake.entries if message.container_id in ("", e.container_id)]
        if known and message.logs:
            await stream.send(log.LogBatch(message.app_id, known[message.from_seq :], len(known)))
        if message.follow:
            fake.listeners.append(stream)
            await fake.stopped.wait()
            fake.listeners.remove(stream)
            await stream.send(app.AppEnded(message.app_id, getattr(fake, "reason", "")))

    async def on_app_stop(self, message: app.AppStop) -> Message:
        fake = self._find(message.app_id)
        if not message.force:
            await asyncio.sleep(self.stop_delay)
        fake.info.state = "stopped"
        fake.stopped.set()
        return Done()

    async def on_app_detach(self, message: app.AppDetach) -> Message:
        return Done()

    async def on_app_lookup(self, message: app.AppLookup) -> Message:
        return self._find(message.name).info

    async def on_app_list(self, message: app.AppList) -> Message:
        return app.Apps([fake.info for fake in self.apps.values()])

    async def on_app_history(self, message: app.AppHistoryGet) -> Message:
        return app.AppHistory(self._find(message.app_id).versions)

    async def on_function_bind(self, message: function.FunctionBind) -> Message:
        app_id, _, name = message.function_id[3:].rpartition("-")
        return self.apps[app_id].handles[name]

    # -- containers
    async def on_container_list(self, message: container.ContainerList) -> Message:
        return container.Containers([c for c in self.containers if message.app_id in ("", c.app_id)])

    async def on_container_locate(self, message: container.ContainerLocate) -> Message:
        for known in self.containers:
            if known.container_id == message.container_id:
                return self.apps[known.app_id].info
        raise Fault(Code.NOT_FOUND, f"There is no container {message.container_id!r}.")

    async def on_container_stop(self, message: container.ContainerStop) -> Message:
        await self.on_container_locate(container.ContainerLocate(message.container_id))
        return Done()

    # -- secrets and environments
    async def on_secret_create(self, message: secret.SecretCreate) -> Message:
        if message.name in self.secrets and not message.overwrite:
            raise Fault(Code.CONFLICT, f"The secret {message.name!r} exists already.")
        self.secrets[message.name] = message.values
        return secret.ObjectId("st-1", message.name)

    async def on_secret_list(self, message: secret.SecretList) -> Message:
        return secret.SecretsKnown([secret.SecretInfo("st-1", name, 1e9) for name in self.secrets])

    async def on_secret_delete(self, message: secret.SecretDelete) -> Message:
        if self.secrets.pop(message.name, None) is None:
            raise Fault(Code.NOT_FOUND, f"There is no secret {message.name!r}.")
        return Done()

    async def on_environment_list(self, message: secret.EnvironmentList) -> Message:
        return secret.Environments([secret.EnvironmentInfo(name, "", name == "main") for name in self.environments])

    async def on_environment_create(self, message: secret.EnvironmentCreate) -> Message:
        self.environments.append(message.name)
        return Done()

    async def on_environment_delete(self, message: secret.EnvironmentDelete) -> Message:
        self.environments.remove(message.name)
        return Done()

    async def on_environment_update(self, message: secret.EnvironmentUpdate) -> Message:
        return Done()

    # -- images and files
    async def on_image_build(self, message: image.ImageBuild, stream: aio.Stream) -> None:
        await stream.send(image.BuildLog("start", "=> Step 0: FROM base", 0, "im-1"))
        await stream.send(image.BuildLog("output", "building\n", 0, "im-1"))
        await stream.send(image.ImageBuilt("im-1", False, "3.11.2", 0.5))

    async def on_files_missing(self, message: file.FilesMissing) -> Message:
        return message

    async def on_files_put(self, message: file.FilesPut) -> Message:
        return Done()

    async def on_mount_put(self, message: file.MountPut) -> Message:
        return file.MountKnown("mo-1")

    # -- calls
    async def on_invoke(self, message: call.Invoke) -> Message:
        status, value = await self._called(message.function_id, message.method, message.args)
        return call.Outputs([0], [status], [value], log_seq=self._seq(message.function_id))

    async def on_call_open(self, message: call.CallOpen, stream: aio.Stream) -> None:
        async for inputs in stream:
            assert isinstance(inputs, call.Inputs)
            for index, args in zip(inputs.indexes, inputs.args, strict=True):
                status, value = await self._called(message.function_id, "", args)
                if status == call.Status.SUCCESS and message.kind == "generator":
                    for item in pickle.loads(value):
                        await stream.send(call.Outputs([index], [call.Status.YIELDED], [pickle.dumps(item)]))
                    status, value = call.Status.EXHAUSTED, b""
                await stream.send(call.Outputs([index], [status], [value], log_seq=self._seq(message.function_id)))

    async def on_spawn(self, message: call.Spawn) -> Message:
        return Done()

    def _seq(self, function_id: str) -> int:
        return len(self.apps[function_id[3:].rpartition("-")[0]].entries)

    async def _called(self, function_id: str, method: str, args: bytes) -> tuple[int, bytes]:
        app_id, _, name = function_id[3:].rpartition("-")
        positional, named = pickle.loads(args)
        self.current_app = app_id
        behaviour = self.functions.get(f"{name}.{method}" if method else name, lambda *a, **k: None)
        try:
            result = behaviour(*positional, **named)
            if inspect.isawaitable(result):
                result = await result
            return call.Status.SUCCESS, pickle.dumps(result)
        except Exception as error:
            from modal._failure import failure_of

            return call.Status.FAILURE, call.pack_failure(failure_of(error))
