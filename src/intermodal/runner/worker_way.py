"""The worker's way: by it come all inputs but the small ones that the express way takes.

When the worker goes away (it was restarted), the control thread finds the new one; until then there is no link, and
who wants to read waits.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Callable, Optional

from intermodal.runner.inputs import Input
from intermodal.runner.link import Link
from modal._protocol.errors import ConnectionLost
from modal._protocol.frames import Frame, Kind
from modal._protocol.messages.worker import RunInputs

if TYPE_CHECKING:
    from intermodal.runner.input_queue import InputQueue

RELINK_SECONDS = 120.0  # how long a container waits for a worker to come back


class WorkerWay:
    """A part of the queue, whose lock guards it."""

    def __init__(self, queue: InputQueue, link: Link) -> None:
        self.link: Optional[Link] = link  # None while the worker is away
        self.on_relink: Optional[Callable[[], None]] = None  # called by the control thread
        self.last = -1  # token of the newest input that came by it
        self._queue = queue
        self._relinked = threading.Condition(queue.lock)
        self._batch: list[Input] = []  # a batch of which more messages are to come

    def feed(self, frames: list[Frame], link: Link) -> None:
        """Queue what frames bring. What an abandoned link brings late counts as never arrived."""
        copied: list[int] = []
        with self._queue.lock:
            if self.link is link:
                self._feed(frames, copied)
        for token in copied:
            self._queue.express.copied(token)

    def _feed(self, frames: list[Frame], copied: list[int]) -> None:
        """`copied` gets the tokens of inputs that came by the express way before."""
        queue = self._queue
        for frame in frames:
            if frame.kind == Kind.ITEM and frame.type == RunInputs.TYPE:
                message = RunInputs.decode(frame.header, frame.body)
                self.last = message.tokens[-1]
                if (message.tokens[0], message.input_ids[0]) == queue.express.last:
                    copied.append(message.tokens[0])
                    continue
                nothing = [""] * len(message.tokens)
                items = map(
                    Input,
                    message.tokens,
                    message.input_ids,
                    message.args,
                    message.blobs or nothing,
                    message.methods or nothing,
                )
                queue.note_arrival(max(message.tokens))
                if message.batch:
                    self._feed_batch(list(items), message.batch)
                else:
                    queue.waiting.extend(items)
            elif frame.kind == Kind.END:
                queue.ended = True
        if queue.stopping:
            queue.return_waiting()

    def _feed_batch(self, items: list[Input], size: int) -> None:
        self._batch.extend(items)
        if len(self._batch) >= size:
            first, *others = self._batch
            self._batch = []
            self._queue.waiting.append(first._replace(others=tuple(others)))

    # -- a worker that goes and comes
    def lost(self, link: Link) -> None:
        """Reading failed: wait for the control thread to notice too."""
        with self._queue.lock:
            if self.link is link:
                self.link = None

    def wait_relinked(self) -> None:
        """Wait until the control thread has found a new worker. Raises ConnectionLost when it gives up."""
        with self._relinked:
            if not self._relinked.wait_for(lambda: self.link is not None, RELINK_SECONDS):
                raise ConnectionLost("the worker is gone")

    def suspend(self) -> None:
        """The worker has gone. The queue's lock is held."""
        self.link = None
        self._batch.clear()  # the rest of it will not come; it is sent again

    def relink(self, link: Link, early: list[Frame]) -> None:
        """By the control thread: there is a new worker, and what it has sent already."""
        copied: list[int] = []
        with self._relinked:
            self.link = link
            self._feed(early, copied)
            self._relinked.notify_all()
        for token in copied:
            self._queue.express.copied(token)
        if self.on_relink is not None:
            self.on_relink()
