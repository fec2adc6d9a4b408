"""The control connection: what must reach the container while user code keeps its main thread busy."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, NoReturn

from intermodal.runner.express import Express
from intermodal.runner.link import Link
from intermodal.runner.nudges import Nudges
from modal._protocol.errors import WireError
from modal._protocol.frames import Kind
from modal._protocol.messages.worker import (
    EXIT_ABANDONED,
    EXIT_INIT_FAILED,
    ExpressLeave,
    Heartbeat,
    RunCancel,
    RunnerAck,
    RunnerFailed,
    RunnerSpec,
    RunnerStops,
    RunPause,
    RunRecall,
    RunResume,
)

if TYPE_CHECKING:
    from intermodal.runner.input_queue import InputQueue
    from intermodal.runner.outbox import Outbox

RELINK_PAUSE = 0.1  # seconds between attempts to reach a worker that is away
RELINK_ATTEMPTS = 1200


class Control(threading.Thread):
    """Sleeps in the kernel nearly always; needs the GIL only when the worker says something.

    When the worker goes away (it was restarted), this thread connects to the new one and hands over
    what the container holds; the main thread goes on with user code meanwhile.
    """

    def __init__(self, path: str, spec: RunnerSpec, queue: InputQueue, outbox: Outbox) -> None:
        super().__init__(name="intermodal-control", daemon=True)
        self.ready = False  # imports and hooks are done
        self.path = path  # the worker's socket
        self.spec = spec
        self._link = Link(path, "runner-control", spec.container_id)
        self._queue = queue
        self._outbox = outbox
        self._heartbeat = max(1.0, spec.heartbeat)
        self._ready_by = time.monotonic() + spec.start_limit if spec.start_limit else float("inf")
        self._nudges = Nudges()
        self._express: Express | None = None

    def run(self) -> None:
        """Until the process ends."""
        while True:
            try:
                self._listen()
            except (OSError, WireError):
                self._relink()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._link.socket, select.POLLIN)
        poll.register(self._nudges.fd, select.POLLIN)
        due = time.monotonic() + self._heartbeat
        while True:
            ready_by = self._ready_by if not self.ready else due
            wait = min(due, ready_by, self._nudges.next()) - time.monotonic()
            for ready, _events in poll.poll(max(0.0, wait) * 1000):
                if ready == self._nudges.fd:
                    self._nudges.read()
                    continue
                for frame in self._link.read():
                    if frame.kind == Kind.NOTE:
                        self._obey(frame.type, frame.header, frame.body)
            self._nudges.nudge()
            if not self.ready and time.monotonic() >= self._ready_by:
                self._end_start()
            if time.monotonic() >= due:
                self._link.note(Heartbeat())
                due = time.monotonic() + self._heartbeat

    def _end_start(self) -> NoReturn:
        """The user's code has had its time to become ready."""
        from intermodal.runner.start_limit import too_long

        failure = too_long(self.spec.function.name, self.spec.start_limit)
        # Past Python's streams: the main thread may hold their locks.
        os.write(2, f"{failure.traceback}{failure.type_name}: {failure.text}\n".encode())
        self._outbox.tell(RunnerFailed(failure))
        os._exit(EXIT_INIT_FAILED)

    def _obey(self, type: int, header: bytes, body: bytes) -> None:
        if type == RunRecall.TYPE:
            self._queue.recall(RunRecall.decode(header, body).tokens)
        elif type == RunCancel.TYPE:
            self._queue.cancel(RunCancel.decode(header, body).tokens)
            self._nudges.plan()
        elif type == RunnerAck.TYPE:
            self._outbox.acknowledged(RunnerAck.decode(header, body).count)
            self._open_express()
            self._queue.turn()  # always: it may have become full, and a generator begun to wait, just before
        elif type == ExpressLeave.TYPE:
            self._queue.express.leave()
        elif type == RunPause.TYPE:
            self._queue.pause(RunPause.decode(header, body).tokens)
        elif type == RunResume.TYPE:
            self._queue.resume(RunResume.decode(header, body).tokens)

    def _open_express(self) -> None:
        """After the first output, so that no start waits for it; anew after one that was of use."""
        if self._express is not None and (self._queue.express.is_open or not self._express.used):
            return
        try:
            self._express = Express(Link(self.path, "runner-express", self.spec.container_id))
        except OSError:
            return
        self._queue.express.open(self._express)

    def _relink(self) -> None:
        """Find the worker again. Ends the process when none comes."""
        self._queue.suspend()
        for _attempt in range(RELINK_ATTEMPTS):
            time.sleep(RELINK_PAUSE)
            data = control = None
            try:
                data = Link(self.path, "runner", self.spec.container_id, resume=True)
                _welcome, early = data.welcome()
                control = Link(self.path, "runner-control", self.spec.container_id, resume=True)
                held = self._queue.suspend()
                self._outbox.resume(data, self.ready, held, self.spec.app_id, self.spec.function_id)
            except (OSError, WireError):
                for link in (data, control):
                    if link is not None:
                        link.close()
                continue
            self._link = control
            self._queue.worker.relink(data, early)
            if self._queue.stopping:
                self._outbox.tell(RunnerStops())
            return
        os._exit(EXIT_ABANDONED)
