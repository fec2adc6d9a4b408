"""The express way, as the side that reads inputs sees it. What it is for, and how outputs leave by it: `express`.

The control thread opens it; the thread that takes inputs reads it from then on, always before the worker's way.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Callable, Optional

from intermodal.runner.express import Express
from intermodal.runner.inputs import Input
from intermodal.runner.outbox import Outbox
from modal._protocol.errors import ConnectionLost, ProtocolError
from modal._protocol.messages.worker import ExpressAck, ExpressReady, RunInputs

if TYPE_CHECKING:
    from intermodal.runner.input_queue import InputQueue


class ExpressWay:
    """A part of the queue, whose lock guards `last`; the rest belongs to who reads (see `InputQueue.reading`)."""

    def __init__(self, queue: InputQueue, outbox: Outbox) -> None:
        self.current: Optional[Express] = None
        self.on_open: Optional[Callable[[], None]] = None  # called by the control thread: `take` has one
        self.last = (-1, "")  # token and id of the newest input that came by it
        self._new: Optional[Express] = None  # opened, not read yet
        self._queue = queue
        self._outbox = outbox

    @property
    def is_open(self) -> bool:
        return self.current is not None or self._new is not None

    def open(self, express: Express) -> None:
        """By the control thread: there is one."""
        self._outbox.open_express(express)
        self._new = express
        if self.on_open is not None:
            self.on_open()

    def take(self) -> Optional[Express]:
        """The one that was opened last: who reads inputs reads it too from now on."""
        new, self._new = self._new, None
        if new is not None:
            self.current = new
        return self.current

    def read(self) -> None:
        """Queue what has arrived."""
        express = self.current
        if express is None:
            return
        try:
            frames = express.link.read_ready()
        except (ConnectionLost, OSError, ProtocolError):
            self._close(express)
            return
        for frame in frames:
            if frame.type == ExpressReady.TYPE:
                self._say_ready(express)
            elif frame.type == ExpressAck.TYPE:
                self._outbox.express_acknowledged(ExpressAck.decode(frame.header, frame.body).tokens)
            elif frame.type == RunInputs.TYPE:
                self._queue_input(RunInputs.decode(frame.header, frame.body))

    def _queue_input(self, message: RunInputs) -> None:
        queue = self._queue
        token, input_id = message.tokens[0], message.input_ids[0]
        method = message.methods[0] if message.methods else ""
        with queue.lock:
            if token <= queue.worker.last:
                return  # the worker was quicker
            self.last = token, input_id
            queue.note_arrival(token)
            queue.waiting.append(Input(token, input_id, message.args[0], "", method, (), True))
            if queue.stopping:
                queue.return_waiting()

    def receive(self) -> None:
        """As `read`, for who does not read already."""
        with self._queue.reading:
            self.read()

    def copied(self, token: int) -> None:
        """An input that came by it has come by the worker too."""
        self._outbox.express_copied(token)

    def leave(self) -> None:
        """The worker asks what has come by it."""
        with self._queue.lock:
            token, input_id = self.last
            if not self._queue.has(token):
                token = -1
        self._outbox.leave_express(token, input_id)

    def _say_ready(self, express: Express) -> None:
        try:
            express.link.note(ExpressReady())
        except OSError:
            self._close(express)

    def _close(self, express: Express) -> None:
        """The server is gone, or does not want it. What it may lack it gets by the worker."""
        try:
            express.link.socket.shutdown(socket.SHUT_RDWR)  # not closed: an event loop may watch it
        except OSError:
            pass
        if self.current is express:
            self.current = None
