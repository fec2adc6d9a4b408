"""One input, two ways: whichever order things come in, it runs once and whoever must know of its output does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from intermodal.runner.express import Express
from intermodal.runner.input_queue import InputQueue
from intermodal.runner.inputs import Input
from intermodal.runner.link import STREAM, Link
from intermodal.runner.outbox import Outbox
from modal._protocol.frames import FrameBuffer, Kind, pack
from modal._protocol.message import Message, decode
from modal._protocol.messages.call import Status
from modal._protocol.messages.worker import ExpressAck, ExpressReady, RunInputs, RunnerHolds, RunOutputs


class Peer:
    """The other end of one of the runner's connections."""

    def __init__(self, path: Path, role: str) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            self.link = Link(str(path), role)
            self.peer, _ = listener.accept()
        self.peer.settimeout(0.2)
        self._frames = FrameBuffer()
        self.read()  # HELLO

    def read(self) -> list[Message]:
        """What has been sent since the last time, without the greeting."""
        try:
            frames = self._frames.feed(self.peer.recv(1 << 16))
        except TimeoutError:
            return []
        return [decode(frame.type, frame.header, frame.body) for frame in frames if frame.kind != Kind.HELLO]

    def outputs(self) -> list[int]:
        return [token for message in self.read() if isinstance(message, RunOutputs) for token in message.tokens]

    def give(self, token: int) -> None:
        message = RunInputs([token], [f"in-{token}"], [b""])
        self.say(message, Kind.ITEM)

    def say(self, message: Message, kind: int = Kind.NOTE) -> None:
        self.peer.sendall(pack(kind, message.TYPE, STREAM, *message.encode()))

    def close(self) -> None:
        self.peer.close()
        self.link.close()


class Both:
    """A queue with both ways, and the other ends of these."""

    def __init__(self, path: Path) -> None:
        self.worker, self.server = Peer(path / "w", "runner"), Peer(path / "s", "runner-express")
        self.outbox = Outbox(self.worker.link)
        self.queue = InputQueue(self.worker.link, self.outbox)
        self.queue.express.open(Express(self.server.link))

    def take(self) -> Optional[Input]:
        """What comes next, if anything does."""
        self.queue.express.take()
        self.queue.read_ready(self.worker.link)
        return self.queue.take_waiting()

    def answer(self, item: Input) -> None:
        self.outbox.put(item.token, Status.SUCCESS, b"x", "", 1.0, item.input_id, express=item.express)
        self.outbox.flush()
        self.queue.finish(item)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path)
    yield made
    made.worker.close()
    made.server.close()


def must(item: Optional[Input]) -> Input:
    assert item is not None
    return item


def test_there_and_back(both: Both) -> None:
    both.server.say(ExpressReady())
    assert both.take() is None
    assert [type(message) for message in both.server.read()] == [ExpressReady]
    both.server.give(1)
    item = must(both.take())
    both.answer(item)
    assert both.server.outputs() == [1]
    assert both.worker.read() == []
    both.server.say(ExpressAck([1]))
    assert both.take() is None
    both.queue.express.leave()
    (holds,) = both.worker.read()
    assert isinstance(holds, RunnerHolds)
    assert holds.tokens == []  # it has arrived: nobody needs it


def test_a_copy_while_it_runs(both: Both) -> None:
    """The worker waits for the output: it gets it."""
    both.server.give(1)
    item = must(both.take())
    both.worker.give(1)
    assert both.take() is None
    both.answer(item)
    assert both.worker.outputs() == [1]
    assert both.server.outputs() == []


def test_a_copy_after_its_output(both: Both) -> None:
    both.server.give(1)
    both.answer(must(both.take()))
    assert both.server.outputs() == [1]
    both.worker.give(1)
    assert both.take() is None
    assert both.worker.outputs() == [1]


def test_a_copy_that_was_quicker(both: Both) -> None:
    both.worker.give(1)
    item = must(both.take())
    both.server.give(1)
    assert both.take() is None
    both.answer(item)
    assert both.worker.outputs() == [1]


def test_the_same_number_in_another_life_of_the_server(both: Both) -> None:
    both.server.give(1)
    both.answer(must(both.take()))
    message = RunInputs([1], ["in-other"], [b""])
    both.worker.say(message, Kind.ITEM)
    assert must(both.take()).input_id == "in-other"


def test_what_is_told_when_the_server_may_be_gone(both: Both) -> None:
    """An output that may not have arrived, and an input that still runs: both go by the worker from now on."""
    both.server.give(1)
    both.answer(must(both.take()))
    both.server.give(2)
    running = must(both.take())
    both.queue.express.leave()
    holds, outputs = both.worker.read()
    assert isinstance(holds, RunnerHolds)
    assert dict(zip(holds.tokens, holds.input_ids)) == {1: "in-1", 2: "in-2"}  # noqa: B905 - Python 3.9
    assert isinstance(outputs, RunOutputs)
    assert outputs.tokens == [1]
    both.answer(running)
    assert both.worker.outputs() == [2]


def test_a_new_worker_gets_what_may_not_have_arrived(both: Both, tmp_path: Path) -> None:
    both.server.give(1)
    both.answer(must(both.take()))
    newer = Peer(tmp_path / "newer", "runner")
    both.outbox.resume(newer.link, True, both.queue.suspend(), "ap-1", "fu-1")
    told = newer.read()
    assert [type(message).__name__ for message in told] == ["RunnerResumed", "RunOutputs"]
    assert told[0].tokens == [1]  # type: ignore[attr-defined]
    newer.close()


def test_its_end(both: Both) -> None:
    """The server is gone: the worker's way goes on, and a newer express way is taken."""
    both.server.give(1)
    both.answer(must(both.take()))
    both.server.peer.close()
    assert both.take() is None
    assert not both.queue.express.is_open
    both.worker.give(2)
    both.answer(must(both.take()))
    assert both.worker.outputs() == [2]


def test_a_cancellation_finds_it(both: Both) -> None:
    """Nobody has read the express way yet."""
    both.take()
    both.server.give(1)
    both.queue.cancel([1])
    (outputs,) = both.worker.read()
    assert isinstance(outputs, RunOutputs)
    assert (outputs.tokens, outputs.statuses) == ([1], [Status.TERMINATED])
    assert both.take() is None
