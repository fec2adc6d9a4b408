"""Inputs that wait in the container, those that run, and who may interrupt or hold up which of them."""

from __future__ import annotations

import select
import signal
import socket
import threading
from collections import deque
from typing import Callable, NamedTuple, Optional

from intermodal.runner.express import Express
from intermodal.runner.link import Link
from intermodal.runner.outbox import Outbox
from modal._protocol.errors import ConnectionLost, ProtocolError
from modal._protocol.frames import Frame, Kind
from modal._protocol.messages.call import CallFailure, Status, pack_failure
from modal._protocol.messages.worker import ExpressAck, ExpressReady, RunInputs, RunnerStops

CANCEL_SIGNAL = signal.SIGUSR1
RELINK_SECONDS = 120.0  # how long a container waits for a worker to come back


class Input(NamedTuple):
    """One input as it came."""

    token: int
    input_id: str
    args: bytes
    blob: str
    method: str
    others: tuple[Input, ...] = ()  # of a batched function: the inputs that run together with this one
    express: bool = False  # it came by the express way

    @property
    def members(self) -> tuple[Input, ...]:
        """The inputs of this run."""
        return (self, *self.others) if self.others else (self,)


class NoMoreInputs(Exception):
    """The server wants nothing more of this container."""


class InputQueue:
    """What has arrived and is not started; what runs, to cancel it; and which generators must wait.

    One thread takes inputs; the control thread recalls, cancels, pauses and relinks. At every instant each
    input that is here is in `held`: a worker that comes back must neither miss one nor send one twice.
    """

    def __init__(self, data: Link, outbox: Outbox) -> None:
        self.data: Optional[Link] = data  # None while the worker is away
        self.on_relink: Optional[Callable[[], None]] = None  # called by the control thread
        self.on_arrival: Optional[Callable[[], None]] = None  # the same: it has read inputs
        self.on_turn: Optional[Callable[[], None]] = None  # the same: `may_yield` may have changed
        self.on_express: Optional[Callable[[], None]] = None  # the same: `take_express` has one
        self.express: Optional[Express] = None
        self._new_express: Optional[Express] = None  # opened, not read yet
        self._express_last = (-1, "")  # token and id of the newest input that came by the express way
        self._worker_last = -1  # token of the newest that came by the worker
        self._outbox = outbox
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # one thread at a time reads frames and queues what they bring
        self._relinked = threading.Condition(self._lock)
        self._turn = threading.Condition()
        self._waiting: deque[Input] = deque()
        self._batch: list[Input] = []  # a batch of which more messages are to come
        self._taken: dict[int, str] = {}  # token -> input id, of what runs or is about to
        self._running: dict[int, tuple[Input, Callable[[], None]]] = {}  # token -> its run, how to interrupt that
        self._cancelled: set[int] = set()
        self._newest = -1  # the highest token that has arrived
        self._paused: set[int] = set()
        self._ended = False
        self.stopping = False  # the user's code wants no more

    # -- the reading side
    def take(self) -> Input:
        """The next input; waits for one. Raises NoMoreInputs, or ConnectionLost when the worker is gone for good."""
        while True:
            item = self.take_waiting()
            if item is not None:
                return item
            self._outbox.flush()
            link = self.data
            if link is None:
                self._wait_relinked()
                continue
            try:
                with self._reading:
                    # While we waited for our turn to read, the control thread may have read what we want.
                    if not self._waiting and not self._ended:
                        if self.express is None and self._new_express is None:
                            self.feed(link.read(), link)
                        else:
                            self._read_either(link)
            except (ConnectionLost, OSError):
                self.lost(link)

    def read_ready(self, link: Link) -> None:
        """Queue what has arrived, without waiting. Raises ConnectionLost or OSError when the worker is gone."""
        with self._reading:
            self.read_express()
            self.feed(link.read_ready(), link)

    # -- the express way
    @property
    def has_express(self) -> bool:
        return self.express is not None or self._new_express is not None

    def take_express(self) -> Optional[Express]:
        """An express way that was opened: who reads inputs reads it too from now on."""
        new, self._new_express = self._new_express, None
        if new is not None:
            self.express = new
        return self.express

    def offer_express(self, express: Express) -> None:
        """By the control thread: an express way was opened."""
        self._outbox.open_express(express)
        self._new_express = express
        if self.on_express is not None:
            self.on_express()

    def leave_express(self) -> None:
        """The worker asks what has come by it."""
        with self._lock:
            token, input_id = self._express_last
            if token not in self._taken and not any(one.token == token for one in self._waiting):
                token = -1
        self._outbox.leave_express(token, input_id)

    def _read_either(self, link: Link) -> None:
        """Wait until one of the two ways brings something."""
        express = self.take_express()
        if express is None:
            self.feed(link.read(), link)
            return
        poll = select.poll()
        poll.register(link.socket, select.POLLIN)
        poll.register(express.link.socket, select.POLLIN)
        ready = poll.poll()
        self.read_express()  # the first: see `Express`
        if not self._waiting and any(descriptor == link.socket.fileno() for descriptor, _events in ready):
            self.feed(link.read(), link)

    def read_express(self) -> None:
        """Queue what has arrived by the express way."""
        express = self.express
        if express is None:
            return
        try:
            frames = express.link.read_ready()
        except (ConnectionLost, OSError, ProtocolError):
            self._close_express(express)
            return
        for frame in frames:
            if frame.type == ExpressReady.TYPE:
                self._say_ready(express)
            elif frame.type == ExpressAck.TYPE:
                self._outbox.express_acknowledged(ExpressAck.decode(frame.header, frame.body).tokens)
            elif frame.type == RunInputs.TYPE:
                message = RunInputs.decode(frame.header, frame.body)
                token, input_id = message.tokens[0], message.input_ids[0]
                method = message.methods[0] if message.methods else ""
                with self._lock:
                    if token <= self._worker_last:
                        continue  # the worker was quicker
                    self._express_last = token, input_id
                    self._newest = max(self._newest, token)
                    self._waiting.append(Input(token, input_id, message.args[0], "", method, (), True))
                    if self.stopping:
                        self._return_waiting()

    def _say_ready(self, express: Express) -> None:
        try:
            express.link.note(ExpressReady())
        except OSError:
            self._close_express(express)

    def receive_express(self) -> None:
        """As `read_express`, for who does not read already."""
        with self._reading:
            self.read_express()

    def _close_express(self, express: Express) -> None:
        """The server is gone, or does not want it. What it may lack it gets by the worker."""
        try:
            express.link.socket.shutdown(socket.SHUT_RDWR)  # not closed: an event loop may watch it
        except OSError:
            pass
        if self.express is express:
            self.express = None

    def take_waiting(self) -> Optional[Input]:
        """The next input that has arrived already. Raises NoMoreInputs after the last one, if it was the last."""
        with self._lock:
            if self._waiting:
                item = self._waiting.popleft()
                for one in item.members:
                    self._taken[one.token] = one.input_id
                return item
            if self._ended:
                raise NoMoreInputs
        return None

    def lost(self, link: Link) -> None:
        """Reading failed: wait for the control thread to notice too."""
        with self._lock:
            if self.data is link:
                self.data = None

    def _wait_relinked(self) -> None:
        """Wait until the control thread has found a new worker. Raises ConnectionLost when it gives up."""
        with self._relinked:
            if not self._relinked.wait_for(lambda: self.data is not None, RELINK_SECONDS):
                raise ConnectionLost("the worker is gone")

    def feed(self, frames: list[Frame], link: Link) -> None:
        """Queue what frames from the worker bring. What an abandoned link brings late counts as never arrived."""
        copied: list[int] = []
        with self._lock:
            if self.data is link:
                self._feed(frames, copied)
        for token in copied:
            self._outbox.express_copied(token)

    def _feed(self, frames: list[Frame], copied: list[int]) -> None:
        """`copied` gets the tokens of inputs that came by the express way before."""
        for frame in frames:
            if frame.kind == Kind.ITEM and frame.type == RunInputs.TYPE:
                message = RunInputs.decode(frame.header, frame.body)
                self._worker_last = message.tokens[-1]
                if (message.tokens[0], message.input_ids[0]) == self._express_last:
                    copied.append(message.tokens[0])
                    continue
                self._newest = max(self._newest, *message.tokens)
                nothing = [""] * len(message.tokens)
                batch = map(
                    Input,
                    message.tokens,
                    message.input_ids,
                    message.args,
                    message.blobs or nothing,
                    message.methods or nothing,
                )
                if message.batch:
                    self._feed_batch(list(batch), message.batch)
                else:
                    self._waiting.extend(batch)
            elif frame.kind == Kind.END:
                self._ended = True

        if self.stopping:
            self._return_waiting()

    def _feed_batch(self, items: list[Input], size: int) -> None:
        self._batch.extend(items)
        if len(self._batch) >= size:
            first, *others = self._batch
            self._batch = []
            self._waiting.append(first._replace(others=tuple(others)))

    # -- what runs
    def begin(self, item: Input, interrupt: Callable[[], None]) -> bool:
        """Note that an input runs. False: it was cancelled before, do not run it."""
        with self._lock:
            if item.token in self._cancelled and not item.others:
                self._cancelled.discard(item.token)
                self._taken.pop(item.token, None)
                return False
            for one in item.members:
                self._running[one.token] = item, interrupt
            return True

    def finish(self, item: Input) -> None:
        """Its outputs are in the outbox."""
        with self._lock:
            for one in item.members:
                self._running.pop(one.token, None)
                self._taken.pop(one.token, None)
                self._cancelled.discard(one.token)
                self._paused.discard(one.token)

    def is_cancelled(self, token: int) -> bool:
        return token in self._cancelled

    def is_answered(self, token: int) -> bool:
        """Whether an input that still runs has its output already: it was cancelled, the rest of its batch not."""
        return token not in self._taken

    def cancelled_running(self) -> list[Input]:
        """Inputs that run and are to be interrupted."""
        with self._lock:
            return [item for token, (item, _interrupt) in self._running.items() if token in self._cancelled]

    # -- whether generators may go on
    def may_yield(self, token: int) -> bool:
        """Whether the consumer of this generator keeps up."""
        return token not in self._paused and not self._outbox.is_full

    def wait_turn(self, token: int) -> None:
        """Wait until the generator may go on, or is to end."""
        if not self.may_yield(token):
            with self._turn:
                self._turn.wait_for(lambda: self.may_yield(token) or token in self._cancelled)

    # -- the control thread
    def suspend(self) -> dict[int, str]:
        """The worker has gone. Token to input id of all that is waiting or running here."""
        with self._lock:
            self.data = None
            found = {one.token: one.input_id for item in self._waiting for one in item.members}
            found.update(self._taken)
            self._batch.clear()  # the rest of it will not come; it is sent again
            self._paused.clear()
        self.turn()
        return found

    def relink(self, data: Link, early: list[Frame]) -> None:
        """There is a new worker, and what it has sent already."""
        copied: list[int] = []
        with self._relinked:
            self.data = data
            self._feed(early, copied)
            self._relinked.notify_all()
        for token in copied:
            self._outbox.express_copied(token)
        if self.on_relink is not None:
            self.on_relink()

    def _feed_arrived(self) -> None:
        """Queue what has come while the thread that takes inputs was busy with one."""
        link = self.data
        if link is not None and self._reading.acquire(blocking=False):
            try:
                self.read_express()
                self.feed(link.read_ready(), link)
            except (ConnectionLost, OSError):
                pass  # whoever takes inputs finds it too
            finally:
                self._reading.release()
            if self.on_arrival is not None:
                self.on_arrival()

    def recall(self, tokens: list[int]) -> None:
        """Give back those of the inputs that are not started."""
        self._feed_arrived()
        with self._lock:
            for item in self._withdraw(set(tokens)):
                self._outbox.put(item.token, Status.RETURNED, b"", "", 0.0, item.input_id)
        self._outbox.flush()

    def stop_fetching(self) -> None:
        """The user's code wants no more: what is not started goes back, also what is on its way."""
        self.stopping = True
        self._outbox.tell(RunnerStops())  # first: else the same inputs would be given to this container again
        with self._lock:
            self._return_waiting()
        self._outbox.flush()

    def _return_waiting(self) -> None:
        while self._waiting:
            for one in self._waiting.popleft().members:
                self._outbox.put(one.token, Status.RETURNED, b"", "", 0.0, one.input_id)

    def cancel(self, tokens: list[int]) -> None:
        """End inputs: the waiting ones quietly, the running ones by interruption."""
        self._feed_arrived()
        wanted = set(tokens)
        interrupts = []
        with self._lock:
            for item in self._withdraw(wanted):
                wanted.discard(item.token)
                self._put_cancelled(item)
            for token in wanted:
                if token not in self._taken and token <= self._newest:
                    continue  # it is over; a newer one is on its way
                self._cancelled.add(token)
                run, interrupt = self._running.get(token, (None, None))
                if interrupt is None or run is None:
                    continue
                if all(one.token in self._cancelled for one in run.members):
                    interrupts.append(interrupt)
                else:  # the others of its batch go on
                    self._put_cancelled(next(one for one in run.members if one.token == token))
                    del self._taken[token]
        self._outbox.flush()
        for interrupt in interrupts:
            interrupt()
        self.turn()

    def _put_cancelled(self, item: Input) -> None:
        self._outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)

    def pause(self, tokens: list[int]) -> None:
        """These generators shall wait."""
        with self._lock:
            self._paused.update(token for token in tokens if token in self._taken)

    def resume(self, tokens: list[int]) -> None:
        """These generators may go on."""
        self._paused.difference_update(tokens)
        self.turn()

    def turn(self) -> None:
        """Generators that wait shall look again."""
        with self._turn:
            self._turn.notify_all()
        if self.on_turn is not None:
            self.on_turn()

    def _withdraw(self, tokens: set[int]) -> list[Input]:
        """Take inputs out of the queue. The rest of a batch stays together."""
        kept: list[Input] = []
        withdrawn: list[Input] = []
        for item in self._waiting:
            staying: list[Input] = []
            for one in item.members:
                (withdrawn if one.token in tokens else staying).append(one)
            if staying:
                kept.append(staying[0]._replace(others=tuple(staying[1:])))
        self._waiting = deque(kept)
        return withdrawn


def cancelled_failure() -> bytes:
    """The value of an input that was cancelled."""
    return pack_failure(CallFailure("cancelled", "modal.exception.InputCancellation", "the input was cancelled"))
