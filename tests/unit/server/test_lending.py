"""GPUs for steps of builds: never a container's at the same time, given back however the step ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from intermodal.server import lending
from intermodal.server.lending import Lending
from intermodal.server.scheduler import Gpu, Request, Scheduler
from modal._protocol.errors import Fault
from modal._protocol.message import Message
from modal._protocol.messages.worker import BuildDevices, BuildDevicesGiven, BuildDevicesWait


class Dispatch:
    """As much of the real one as lending needs."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(lambda: "ta-1")
        self.scheduler.capacity.add("wo-1", 2, 1000, {"g1": "T4", "g2": "A100-40GB"})
        self.gone: list[Any] = []
        self.ran = 0

    def run(self) -> None:
        self.ran += 1


class Stream:
    """A worker's stream, which ends when it says so."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.ended = asyncio.Event()
        self.told = asyncio.Event()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        self.told.set()

    async def wait_ended(self) -> None:
        await self.ended.wait()


class Connection:
    worker_id = "wo-1"


@pytest.fixture
def dispatch() -> Dispatch:
    return Dispatch()


@pytest.fixture
def lends(dispatch: Dispatch) -> Lending:
    return Lending(dispatch)  # type: ignore[arg-type]


def free(dispatch: Dispatch) -> set[str]:
    return set(dispatch.scheduler.capacity.workers["wo-1"].free)


async def begin(lends: Lending, *gpu: str) -> tuple[asyncio.Task[None], Stream]:
    stream = Stream()
    task = asyncio.create_task(lends.lend(Connection(), BuildDevices("ib-1", list(gpu)), stream))  # type: ignore[arg-type]
    await asyncio.wait([task, asyncio.create_task(stream.told.wait())], return_when=asyncio.FIRST_COMPLETED)
    return task, stream


async def test_a_step_has_a_device_until_its_stream_ends(lends: Lending, dispatch: Dispatch) -> None:
    task, stream = await begin(lends, "H100", "T4")
    assert stream.sent == [BuildDevicesGiven(["g1"])]
    assert free(dispatch) == {"g2"}
    stream.ended.set()
    await task
    assert free(dispatch) == {"g1", "g2"}
    assert dispatch.ran == 1  # functions that wait for it may have it


async def test_a_worker_that_dies_gives_back_what_its_step_had(lends: Lending, dispatch: Dispatch) -> None:
    task, _stream = await begin(lends, "T4")
    task.cancel()
    await asyncio.wait([task])
    assert free(dispatch) == {"g1", "g2"}


@pytest.mark.parametrize("by", ["another step", "a container"])
async def test_what_is_taken_is_waited_for(
    lends: Lending, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(lending, "RETRY_SECONDS", 3600.0)  # it is told, and does not look by itself
    capacity = dispatch.scheduler.capacity
    if by == "a container":
        taken = capacity.take("wo-1", Request(0.1, 1, (Gpu("T4"),)))
    else:
        first, holder = await begin(lends, "T4")
    task, stream = await begin(lends, "T4")
    [waiting] = stream.sent
    assert isinstance(waiting, BuildDevicesWait)
    assert waiting.reason.startswith("waiting for gpu='T4'")
    stream.told.clear()
    if by == "a container":
        capacity.give("wo-1", taken)
        for tell in dispatch.gone:
            tell("ta-9")
    else:
        holder.ended.set()
        await first
    await stream.told.wait()
    assert stream.sent[1:] == [BuildDevicesGiven(["g1"])]
    stream.ended.set()
    await task


async def test_what_the_machine_does_not_have_is_refused_at_once(lends: Lending) -> None:
    with pytest.raises(Fault, match=r"gpu='H100 or T4:2', and the machine has 1 x T4, 1 x A100-40GB.*SIMULATED"):
        await (await begin(lends, "H100", "T4:2"))[0]
