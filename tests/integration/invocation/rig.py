"""Server, worker and runner without containers: the runner is a plain process, everything else is real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

from intermodal.home import Home as RealHome
from intermodal.server.dispatch import Container
from intermodal.server.invocation import Invocation
from intermodal.server.store.store import Store
from intermodal.worker.agent import Agent
from intermodal.worker.containers.launch import Exit
from modal._client import Client
from modal._protocol import aio
from modal._protocol.frames import VERSION_MAX, VERSION_MIN
from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources
from modal._protocol.messages.image import ImageConfig
from modal._protocol.messages.log import LogEntry
from modal._protocol.messages.wire import Hello, Welcome
from modal._protocol.messages.worker import ContainerSpec, RunnerSpec
from tests.integration.client.calls import Fn

SRC = Path(__file__).parents[3] / "src"
START = SRC / "intermodal" / "runner" / "start.py"


class Home(RealHome):
    """A state directory with as much in it as the rig needs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for directory in (self.containers, self.values):
            directory.mkdir(parents=True, exist_ok=True)


class PlainProcess:
    """Stands in for a running container."""

    def __init__(self, container_id: str, directory: Path, process: asyncio.subprocess.Process, fds: list[int]) -> None:
        self.container_id = container_id
        self.directory = directory
        self.process = process
        self.stdout_fd, self.stderr_fd = fds
        self.marks: dict[str, float] = {"process": 1.0}
        self.ended = False

    async def wait(self) -> Exit:
        code = await self.process.wait()
        self.ended = True
        return Exit(code if code >= 0 else 128 - code, -code if code < 0 else 0)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def usage(self) -> tuple[float, int]:
        return 0.0, 0

    async def close(self) -> None:
        for descriptor in (self.stdout_fd, self.stderr_fd):
            os.close(descriptor)


class NoLocalPorts:
    """These containers are on the machine's own network."""

    async def set(self, _ports: Iterable[int]) -> None:
        pass


class PlainContainers:
    """Starts runners as plain processes."""

    runtime = "plain"

    def __init__(self, source: Path) -> None:
        self.source = source
        self.local_ports = NoLocalPorts()
        self.running: list[PlainProcess] = []

    async def open(self) -> None:
        pass

    async def adopt(self) -> list[Any]:
        return []

    async def start(self, launch: Any) -> PlainProcess:
        fds, ends = [], []
        for name in ("stdout", "stderr"):
            path = launch.directory / name
            os.mkfifo(path)
            ends.append(os.open(path, os.O_RDWR))
            fds.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        env = {
            **os.environ,
            "INTERMODAL_RUN_DIR": str(launch.directory / "run"),
            "INTERMODAL_SOURCE_DIR": str(self.source),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(START), stdout=ends[0], stderr=ends[1], env=env, start_new_session=True
        )
        for end in ends:
            os.close(end)
        running = PlainProcess(launch.container_id, launch.directory, process, fds)
        self.running.append(running)
        return running

    async def close(self, keep_containers: bool = False) -> None:
        pass


class NoStorage:
    """Stands in for what containers may be given beside their images."""

    async def keep_committed(self, _activity: object, _tell: object) -> None:
        """There is nothing to commit."""

    async def finish(self, _container_id: str) -> list[str]:
        return []

    async def release(self, _container_id: str) -> None:
        pass

    async def sweep(self, _kept: set[str]) -> None:
        pass

    def disown(self, _kept: set[str]) -> None:
        pass


class PlainHandover:
    """Gives containers' express ways to the server, as datagrams do it elsewhere."""

    is_here = False  # for web functions, which the rig has none of

    def __init__(self, server: Callable[[], Invocation]) -> None:
        self._server = server

    def send(self, container_id: str, descriptor: int, _ticket: str = "", role: str = "") -> None:
        if role == "runner-express":
            self._server().dispatch.express.open(container_id, socket.socket(fileno=os.dup(descriptor)))


class PlainAgent(Agent):
    """The real agent, but for images and containers."""

    def __init__(self, home: Home, server: str, containers: PlainContainers, handover: PlainHandover) -> None:
        self._plain = containers
        self._plain_handover = handover
        super().__init__(home, server, Hello("worker", VERSION_MIN, VERSION_MAX))  # type: ignore[arg-type]

    def _make_parts(self) -> None:
        super()._make_parts()
        self.containers = self._plain  # type: ignore[assignment]
        self.volumes = self.buckets = NoStorage()  # type: ignore[assignment]
        self.handover = self._plain_handover  # type: ignore[assignment]

    async def _close_parts(self) -> None:
        pass

    async def _open_parts(self) -> None:
        pass

    async def _launch(self, cell: Any, spec: Any) -> Any:
        cell.directory.mkdir(parents=True, exist_ok=True)
        await cell.listen(self.server, self._credentials, lambda: None, lambda: self._registered)
        cell.remember()

        class Launch:
            container_id = spec.container_id
            directory = cell.directory

        # The values directory as the runner sees it lies outside of a container here.
        return Launch()


class Life:
    """One life of the server. Once it is over nobody is greeted: not who was about to be when it ended, either."""

    def __init__(self, connections: list[aio.Connection]) -> None:
        self.is_over = False
        self._connections = connections

    def greet(self, connection: aio.Connection, _hello: Hello) -> Welcome:
        if self.is_over:
            connection.abort()
        return Welcome(1)

    def connected(self, connection: aio.Connection) -> None:
        if self.is_over:
            connection.abort()
        else:
            self._connections.append(connection)


class Rig:
    """A server with one worker. `rig.function(...)` publishes; clients connect to `rig.address`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path / "source"
        self.source.mkdir(exist_ok=True)
        self.home = Home(path)
        self.address = f"unix:{path}/server.sock"
        self.logs: list[LogEntry] = []
        self.store: Store
        self.invocation: Invocation
        self.agent: PlainAgent
        self.server: asyncio.AbstractServer
        self.connections: list[aio.Connection] = []
        self._life: Life
        self._published: dict[str, FunctionSpec] = {}
        self._clients: list[Client] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start_server(self, expect_workers: bool = False) -> None:
        self.store = await Store.open(self.path / "store.sqlite")
        self.invocation = Invocation(
            self.store.calls,
            self.store.fleet,
            self._prepare,
            lambda _connection, _function_id: None,
            lambda _app_id, entries: self.logs.extend(entries),
            lambda _app_id: len(self.logs),
            lambda _app_id: True,
        )
        handlers = aio.Handlers()
        self.invocation.register(handlers)
        await self.invocation.open(expect_workers)
        life = self._life = Life(self.connections)
        self.server = await aio.serve(self.address, life.greet, handlers, connected=life.connected)

    async def restart_server(self) -> None:
        """As after kill -9: everything in its memory is gone, every connection cut."""
        self.server.close()
        self._life.is_over = True
        self.cut()
        self.cut_express()
        await self.store.close()
        await self.start_server(expect_workers=True)
        for function_id, spec in self._published.items():
            self.invocation.functions_changed("ap-1", [(function_id, spec)], [])

    def cut(self) -> None:
        """Cut every connection to the server."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()

    def cut_express(self) -> None:
        """Cut the express way of every container."""
        for container in self.invocation.dispatch.containers.values():
            if container.express is not None:
                container.express.close()

    def cut_clients(self) -> None:
        """Cut every connection but the worker's."""
        for connection in self.connections:
            if not hasattr(connection, "worker_id"):
                connection.abort()

    async def start_worker(self) -> None:
        self.containers = PlainContainers(self.source)
        self.agent = PlainAgent(self.home, self.address, self.containers, PlainHandover(lambda: self.invocation))
        self._tasks.append(asyncio.get_running_loop().create_task(self.agent.run()))

    @contextlib.asynccontextmanager
    async def worker_away(self) -> AsyncIterator[None]:
        """Within the block the worker has no connection to the server; after it, it is registered again."""
        address, self.agent.server = self.agent.server, f"unix:{self.path}/nobody.sock"
        for connection in self.connections:
            if hasattr(connection, "worker_id"):
                connection.abort()
        async with asyncio.timeout(200):
            while not all(link.connection.closed for link in self.invocation.workers.links.values()):
                await asyncio.sleep(0.01)
            try:
                yield
            finally:
                self.agent.server = address
            while not any(not link.connection.closed for link in self.invocation.workers.links.values()):
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.agent.stop()
        for task in self._tasks:
            await task
        self.server.close()
        await self.store.close()

    async def _prepare(self, container: Container) -> ContainerSpec:
        spec = container.function.spec
        runner = RunnerSpec(container.id, container.function.app_id, "app", container.function.function_id, spec)
        return ContainerSpec(
            container.id, container.function.app_id, container.function.function_id, "im-1", ImageConfig([]), [], {},
            [],
            Resources(), runner,
        )  # fmt: skip

    def write(self, name: str, text: str) -> None:
        (self.source / f"{name}.py").write_text(text)

    def function(self, function_id: str, module: str, qualname: str, **fields: Any) -> None:
        """Publish a function of a module that was written with `write`."""
        fields.setdefault("resources", Resources())
        fields.setdefault("autoscaler", Autoscaler())
        spec = FunctionSpec(name=qualname, module=module, qualname=qualname, **fields)
        self._published[function_id] = spec
        self.invocation.functions_changed("ap-1", [(function_id, spec)], [])

    def call(self, function_id: str) -> Fn:
        """The function as a client of its own calls it."""
        client = Client(self.address)
        self._clients.append(client)
        return Fn(client, function_id)


@contextlib.asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """A started rig, in a directory whose sockets' paths are not too long. Shows what containers printed."""
    with tempfile.TemporaryDirectory(prefix="im-rig-", dir="/tmp") as directory:
        it = Rig(Path(directory))
        await it.start_server()
        await it.start_worker()
        try:
            yield it
        finally:
            await it.stop()
            print("".join(entry.text for entry in it.logs))
