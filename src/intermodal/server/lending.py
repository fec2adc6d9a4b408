"""GPUs for steps of images' builds: lent by the scheduler, so that no container has them at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from intermodal.server.scheduler import gpus
from intermodal.server.scheduler.capacity import Request, Taken
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.worker import BuildDevices, BuildDevicesGiven, BuildDevicesWait

if TYPE_CHECKING:
    from intermodal.server.dispatch import Dispatch
    from modal._protocol.aio import Connection, Handlers, Stream

RETRY_SECONDS = 5.0  # between looks for a container that has become idle


class Lending:
    """A build asks by a stream, and has the devices until the stream ends: a worker that dies gives them back."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._freed = asyncio.Event()
        dispatch.gone.append(lambda _container_id: self._freed.set())

    def register(self, handlers: Handlers) -> None:
        handlers.stream(BuildDevices)(self.lend)

    async def lend(self, connection: Connection, message: BuildDevices, stream: Stream) -> None:
        worker_id = str(getattr(connection, "worker_id", ""))
        try:
            request = Request(0.0, 0, tuple(gpus.parse(text) for text in message.gpu))
        except ValueError:
            raise Fault(Code.INVALID, f"gpu={message.gpu!r} is no request for GPUs") from None
        taken = await self._take(worker_id, request, stream)
        try:
            await stream.send(BuildDevicesGiven(list(taken.devices)))
            await stream.wait_ended()
        finally:
            self._dispatch.scheduler.capacity.give(worker_id, taken)
            self._freed.set()
            self._dispatch.scheduler.serve(time.monotonic())
            self._dispatch.run()

    async def _take(self, worker_id: str, request: Request, stream: Stream) -> Taken:
        """Reserve them, as soon as they are free. Fault: invalid, where the machine has none of these."""
        capacity, told = self._dispatch.scheduler.capacity, False
        while True:
            worker = capacity.workers.get(worker_id)
            if worker is None or gpus.choose(request.gpus, worker.devices) is None:
                raise Fault(Code.INVALID, self._problem(request, {} if worker is None else worker.devices))
            if gpus.choose(request.gpus, worker.free) is not None:
                return capacity.take(worker_id, request)
            if not told:
                told = True
                await stream.send(BuildDevicesWait(f"waiting for {capacity.lack(request)}"))
            self._make_room(worker_id, request)
            self._freed.clear()
            try:
                await asyncio.wait_for(self._freed.wait(), RETRY_SECONDS)
            except TimeoutError:
                continue

    def _problem(self, request: Request, devices: dict[str, str]) -> str:
        asked = " or ".join(str(option) for option in request.gpus)
        return (
            f"this step asks for gpu={asked!r}, and the machine has {gpus.describe(devices.values())}. Leave gpu= out, "
            f'ask for what there is, or let the worker pretend: set INTERMODAL_SIMULATED_GPUS="{request.gpus[0]}" and '
            "start it again, and such steps get no device but run"
        )

    def _make_room(self, worker_id: str, request: Request) -> None:
        """Let the container end that idles longest with a device that would serve, unless it is one of a minimum."""
        scheduler = self._dispatch.scheduler
        worker = scheduler.capacity.workers[worker_id]
        for slot in list(scheduler.longest_idle().values()):
            kinds = [worker.devices.get(device, "") for device in slot.taken.devices]
            spare = slot.pool.ready > slot.pool.rules.min_containers
            if slot.worker_id == worker_id and spare and any(gpus.usable(request.gpus, kind) for kind in kinds):
                scheduler.evict(slot, time.monotonic())
                self._dispatch.run()
                return
