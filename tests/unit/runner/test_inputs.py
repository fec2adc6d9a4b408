"""Inputs that reach a container while it is busy: they can be given back and cancelled though nobody has taken them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.runner.input_queue import InputQueue
from intermodal.runner.link import STREAM, Link
from intermodal.runner.outbox import Outbox
from modal._protocol.errors import ConnectionLost
from modal._protocol.frames import FrameBuffer, Kind, pack
from modal._protocol.messages.call import Status
from modal._protocol.messages.worker import RunInputs, RunOutputs


class Worker:
    """The other end of a runner's data connection."""

    def __init__(self, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            self.link = Link(str(path), "runner")
            self.peer, _ = listener.accept()
        self.peer.settimeout(5)
        self._frames = FrameBuffer()
        self._read()  # HELLO

    def _read(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for frame in self._frames.feed(self.peer.recv(1 << 16)):
            if frame.kind == Kind.ITEM and frame.type == RunOutputs.TYPE:
                message = RunOutputs.decode(frame.header, frame.body)
                found += zip(message.tokens, message.statuses, strict=True)
        return found

    def give(self, *tokens: int) -> None:
        """Send inputs."""
        message = RunInputs(list(tokens), [f"in-{token}" for token in tokens], [b""] * len(tokens))
        self.peer.sendall(pack(Kind.ITEM, message.TYPE, STREAM, *message.encode()))

    def outputs(self) -> list[tuple[int, int]]:
        """(token, status) of what the runner sends next."""
        return self._read()

    def close(self) -> None:
        self.peer.close()
        self.link.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path / "s")
    yield worker
    worker.close()


@pytest.fixture
def queue(worker: Worker) -> InputQueue:
    return InputQueue(worker.link, Outbox(worker.link))


def test_what_arrived_behind_a_running_input_is_given_back(worker: Worker, queue: InputQueue) -> None:
    worker.give(1)
    running = queue.take()
    assert queue.begin(running, lambda: None)
    worker.give(2, 3)  # the thread that takes inputs is in the user's code: nobody reads
    queue.recall([2, 3])
    assert worker.outputs() == [(2, Status.RETURNED), (3, Status.RETURNED)]
    assert queue.take_waiting() is None


def test_what_arrived_behind_a_running_input_is_cancelled(worker: Worker, queue: InputQueue) -> None:
    worker.give(1)
    assert queue.begin(queue.take(), lambda: None)
    worker.give(2, 3)
    queue.cancel([2])
    assert worker.outputs() == [(2, Status.TERMINATED)]
    left = queue.take()
    assert left.token == 3
    assert queue.begin(left, lambda: None)


def test_a_cancellation_that_overtakes_its_input_holds(worker: Worker, queue: InputQueue) -> None:
    queue.cancel([7])
    worker.give(7)
    assert not queue.begin(queue.take(), lambda: None)


def test_a_late_cancellation_is_forgotten(worker: Worker, queue: InputQueue) -> None:
    interrupted = []
    worker.give(1)
    item = queue.take()
    assert queue.begin(item, lambda: interrupted.append(1))
    queue.finish(item)
    queue.cancel([1])
    assert not queue.is_cancelled(1)
    assert not interrupted


def test_an_input_that_another_thread_has_read_is_taken(worker: Worker, queue: InputQueue) -> None:
    """The thread that takes inputs waits for its turn to read while the control thread reads its input."""

    class ReadByAnother:
        def __enter__(self) -> None:
            queue.worker.feed(worker.link.read_ready(), worker.link)

        def __exit__(self, *_error: object) -> None:
            pass

    queue.reading = ReadByAnother()  # type: ignore[assignment]
    worker.give(1)
    assert queue.take().token == 1


def test_what_came_before_the_end_of_a_connection_is_kept(worker: Worker, queue: InputQueue) -> None:
    worker.give(1)
    worker.peer.close()
    queue.read_ready(worker.link)
    waiting = queue.take_waiting()
    assert waiting is not None
    assert waiting.token == 1
    with pytest.raises(ConnectionLost):
        queue.read_ready(worker.link)
