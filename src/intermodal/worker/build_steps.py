"""What a step of an image's build has of the platform, as a function's container does: volumes, GPUs, the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from intermodal.home import Home
from intermodal.worker import api
from intermodal.worker.buckets import Buckets
from intermodal.worker.containers.containers import Containers
from intermodal.worker.containers.launch import Bind, StartFailed
from intermodal.worker.devices.edits import Edits
from intermodal.worker.devices.inventory import Inventory
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.trees import remove_tree
from intermodal.worker.volumes import Volumes
from modal._protocol.aio import Connection, Stream
from modal._protocol.errors import Code, Fault, WireError
from modal._protocol.messages.function import VolumeMount
from modal._protocol.messages.wire import Hello
from modal._protocol.messages.worker import BuildDevices, BuildDevicesGiven, BuildDevicesWait

RUN = "/.intermodal/run"  # where the API's socket is in the container

Log = Callable[[str, str], None]  # takes a kind of BuildLog, and text


class BuildSteps:
    """Of one worker. Implements what `images.workshop.StepPlatform` asks for."""

    def __init__(
        self,
        home: Home,
        containers: Containers,
        devices: Inventory,
        volumes: Volumes,
        buckets: Buckets,
        server: str,
        credentials: Hello,
        connection: Callable[[], Connection | None],
    ) -> None:
        self._home = home
        self._containers = containers
        self._devices = devices
        self._volumes = volumes
        self._buckets = buckets
        self._server = server
        self._credentials = credentials
        self._connection = connection
        self._pids: dict[str, int] = {}

    @asynccontextmanager
    async def api(self, container_id: str, environment: str) -> AsyncIterator[Bind]:
        """The container's way to the server, at `RUN`."""
        directory = self._home.containers / container_id / "run"
        await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)

        def connected() -> asyncio.Protocol:
            return api.Inner(container_id, self._server, self._credentials, lambda: None, environment)

        listener = await api.listen(asyncio.get_running_loop(), connected, directory / "api.sock")
        try:
            yield Bind(directory, RUN, read_only=False)
        finally:
            listener.close()
            await asyncio.to_thread(remove_tree, directory.parent)

    @asynccontextmanager
    async def volumes(
        self, container_id: str, mounts: list[VolumeMount], credentials: Mapping[str, Mapping[str, str]]
    ) -> AsyncIterator[list[Bind]]:
        """Volumes, buckets and network file systems; what was written is committed in the end, as for functions.

        Raises StepError.
        """
        try:
            try:
                yield [
                    *await self._volumes.attach(container_id, mounts),
                    *await self._buckets.attach(container_id, mounts, credentials),
                ]
            finally:
                problems = await self._volumes.finish(container_id)
                await self._buckets.release(container_id)
        except StartFailed as error:
            raise StepError(str(error)) from error
        except Fault as fault:
            raise StepError(fault.text) from fault
        except WireError as error:
            raise StepError(f"the server went away: {error}") from error
        if problems:
            raise StepError("; ".join(problems))

    @asynccontextmanager
    async def devices(self, container_id: str, gpu: list[str], log: Log) -> AsyncIterator[Edits]:
        """GPUs that are the container's alone, as soon as there are any. Raises StepError where there never will be."""
        connection = self._connection()
        if connection is None:
            raise StepError("the server is away, which lends the GPUs: build again")
        stream = connection.open(BuildDevices(container_id, gpu))
        try:
            yield await self._given(stream, log)
        finally:
            stream.cancel()

    async def _given(self, stream: Stream, log: Log) -> Edits:
        try:
            async for message in stream:
                if isinstance(message, BuildDevicesWait):
                    log("output", f"{message.reason}\n")
                elif isinstance(message, BuildDevicesGiven):
                    return self._edits(message.devices, log)
        except Fault as fault:
            raise StepError(fault.text) from None
        except WireError as error:
            raise StepError(f"the server went away while GPUs were waited for: {error}") from error
        raise StepError("the server did not say which GPUs the step may use: build again")

    def _edits(self, ids: list[str], log: Log) -> Edits:
        kinds = [gpu for gpu in self._devices.gpus if gpu.id in ids]
        simulated = ", simulated: no device" if all(gpu.simulated for gpu in kinds) else ""
        log("output", f"this step has {len(kinds)} x {kinds[0].kind if kinds else 'GPU'}{simulated}\n")
        try:
            return self._devices.edits(ids)
        except (KeyError, FileNotFoundError) as error:
            raise StepError(f"a GPU of this machine cannot be used: {error}") from None

    # -- what the server asks for while a step runs
    def started(self, container_id: str, pid: int) -> None:
        """The container runs as this process (0: it has ended)."""
        if pid:
            self._pids[container_id] = pid
        else:
            self._pids.pop(container_id, None)

    def runs(self, container_id: str) -> bool:
        return container_id in self._pids

    async def sync(self, container_id: str, volume_id: str, action: str) -> None:
        """Commit or reload a volume. Raises Fault."""
        if action == "commit":
            await self._volumes.commit(container_id, volume_id)
        elif action == "reload":
            await self._volumes.reload(container_id, volume_id, self._pids[container_id])
        else:
            raise Fault(Code.INVALID, f"a volume cannot be asked to {action[:40]!r}")
