"""The control connection: what must reach the container while user code keeps its main thread busy."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from modal._protocol.errors import WireError
from modal._protocol.frames import Kind
from modal._protocol.messages.worker import Heartbeat, RunCancel, RunRecall, RunStarted

from intermodal.runner.link import Link

if TYPE_CHECKING:
    from intermodal.runner.inputs import InputQueue

LONG_SECONDS = 0.05  # an input that runs longer is reported as started


class Control(threading.Thread):
    """Sleeps in the kernel nearly always; needs the GIL only when the worker says something."""

    def __init__(self, path: str, container_id: str, queue: InputQueue, heartbeat: float) -> None:
        super().__init__(name="intermodal-control", daemon=True)
        self._link = Link(path, "runner-control", container_id)
        self._queue = queue
        self._heartbeat = max(1.0, heartbeat)

    def run(self) -> None:
        """Until the worker closes the connection, or the process ends."""
        poll = select.poll()
        poll.register(self._link.socket, select.POLLIN)
        due = time.monotonic() + self._heartbeat
        try:
            while True:
                left = max(0.0, due - time.monotonic())
                if poll.poll(left * 1000):
                    for frame in self._link.read():
                        if frame.kind == Kind.NOTE:
                            self._obey(frame.type, frame.header, frame.body)
                if time.monotonic() >= due:
                    self._link.note(Heartbeat())
                    due = time.monotonic() + self._heartbeat
        except (OSError, WireError):
            return  # the data connection ends too, and with it the container

    def _obey(self, type: int, header: bytes, body: bytes) -> None:
        if type == RunRecall.TYPE:
            self._queue.recall(RunRecall.decode(header, body).tokens)
        elif type == RunCancel.TYPE:
            self._queue.cancel(RunCancel.decode(header, body).tokens)

    def started(self, tokens: list[int]) -> None:
        """Tell the worker which inputs have been running for a while."""
        try:
            self._link.note(RunStarted(tokens))
        except OSError:
            pass

    def fileno(self) -> int:
        return self._link.socket.fileno()


def pid() -> int:
    """This process, as it sees itself (1 in its own PID namespace)."""
    return os.getpid()
