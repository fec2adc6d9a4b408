"""Inputs that wait in the container, those that run, and who may interrupt or hold up which of them."""

from __future__ import annotations

import select
import threading
from collections import deque
from typing import Callable, Optional

from intermodal.runner.express_way import ExpressWay
from intermodal.runner.inputs import Input, NoMoreInputs, cancelled_failure
from intermodal.runner.link import Link
from intermodal.runner.outbox import Outbox
from intermodal.runner.worker_way import WorkerWay
from modal._protocol.errors import ConnectionLost
from modal._protocol.messages.call import Status
from modal._protocol.messages.worker import RunnerStops


class InputQueue:
    """What has arrived, by either way, and is not started; what runs, to cancel it; and which generators must wait.

    One thread takes inputs; the control thread recalls, cancels, pauses and relinks. At every instant each
    input that is here is in `waiting` or taken: a worker that comes back must neither miss one nor send one twice.
    """

    def __init__(self, data: Link, outbox: Outbox) -> None:
        self.lock = threading.Lock()
        self.reading = threading.Lock()  # one thread at a time reads frames and queues what they bring
        self.worker = WorkerWay(self, data)
        self.express = ExpressWay(self, outbox)
        self.waiting: deque[Input] = deque()
        self.ended = False  # the worker has sent its last
        self.stopping = False  # the user's code wants no more
        self.on_arrival: Optional[Callable[[], None]] = None  # called by the control thread: it has read inputs
        self.on_turn: Optional[Callable[[], None]] = None  # the same: `may_yield` may have changed
        self._outbox = outbox
        self._turn = threading.Condition()
        self._taken: dict[int, str] = {}  # token -> input id, of what runs or is about to
        self._running: dict[int, tuple[Input, Callable[[], None]]] = {}  # token -> its run, how to interrupt that
        self._cancelled: set[int] = set()
        self._newest = -1  # the highest token that has arrived
        self._paused: set[int] = set()

    # -- the reading side
    def take(self) -> Input:
        """The next input; waits for one. Raises NoMoreInputs, or ConnectionLost when the worker is gone for good."""
        while True:
            item = self.take_waiting()
            if item is not None:
                return item
            self._outbox.flush()
            link = self.worker.link
            if link is None:
                self.worker.wait_relinked()
                continue
            try:
                with self.reading:
                    # While we waited for our turn to read, the control thread may have read what we want.
                    if not self.waiting and not self.ended:
                        self._read(link)
            except (ConnectionLost, OSError):
                self.worker.lost(link)

    def _read(self, link: Link) -> None:
        """Wait until one of the two ways brings something."""
        express = self.express.take() if self.express.is_open else None
        if express is None:
            self.worker.feed(link.read(), link)
            return
        poll = select.poll()
        poll.register(link.socket, select.POLLIN)
        poll.register(express.link.socket, select.POLLIN)
        ready = poll.poll()
        self.express.read()  # the first: see `Express`
        if not self.waiting and any(descriptor == link.socket.fileno() for descriptor, _events in ready):
            self.worker.feed(link.read(), link)

    def read_ready(self, link: Link) -> None:
        """Queue what has arrived, without waiting. Raises ConnectionLost or OSError when the worker is gone."""
        with self.reading:
            self.express.read()
            self.worker.feed(link.read_ready(), link)

    def take_waiting(self) -> Optional[Input]:
        """The next input that has arrived already. Raises NoMoreInputs after the last one, if it was the last."""
        with self.lock:
            if self.waiting:
                item = self.waiting.popleft()
                for one in item.members:
                    self._taken[one.token] = one.input_id
                return item
            if self.ended:
                raise NoMoreInputs
        return None

    # -- for the two ways, which hold the lock
    def note_arrival(self, token: int) -> None:
        """Inputs up to this token have arrived."""
        if token > self._newest:
            self._newest = token

    def has(self, token: int) -> bool:
        """Whether this input waits or runs here."""
        return token in self._taken or any(one.token == token for one in self.waiting)

    def return_waiting(self) -> None:
        """Give back all that is not started."""
        while self.waiting:
            for one in self.waiting.popleft().members:
                self._outbox.put(one.token, Status.RETURNED, b"", "", 0.0, one.input_id)

    # -- what runs
    def begin(self, item: Input, interrupt: Callable[[], None]) -> bool:
        """Note that an input runs. False: it was cancelled before, do not run it."""
        with self.lock:
            if item.token in self._cancelled and not item.others:
                self._cancelled.discard(item.token)
                self._taken.pop(item.token, None)
                return False
            for one in item.members:
                self._running[one.token] = item, interrupt
            return True

    def finish(self, item: Input) -> None:
        """Its outputs are in the outbox."""
        with self.lock:
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
        with self.lock:
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
        with self.lock:
            self.worker.suspend()
            found = {one.token: one.input_id for item in self.waiting for one in item.members}
            found.update(self._taken)
            self._paused.clear()
        self.turn()
        return found

    def _feed_arrived(self) -> None:
        """Queue what has come while the thread that takes inputs was busy with one."""
        link = self.worker.link
        if link is not None and self.reading.acquire(blocking=False):
            try:
                self.express.read()
                self.worker.feed(link.read_ready(), link)
            except (ConnectionLost, OSError):
                pass  # whoever takes inputs finds it too
            finally:
                self.reading.release()
            if self.on_arrival is not None:
                self.on_arrival()

    def recall(self, tokens: list[int]) -> None:
        """Give back those of the inputs that are not started."""
        self._feed_arrived()
        with self.lock:
            for item in self._withdraw(set(tokens)):
                self._outbox.put(item.token, Status.RETURNED, b"", "", 0.0, item.input_id)
        self._outbox.flush()

    def stop_fetching(self) -> None:
        """The user's code wants no more: what is not started goes back, also what is on its way."""
        self.stopping = True
        self._outbox.tell(RunnerStops())  # first: else the same inputs would be given to this container again
        with self.lock:
            self.return_waiting()
        self._outbox.flush()

    def cancel(self, tokens: list[int]) -> None:
        """End inputs: the waiting ones quietly, the running ones by interruption."""
        self._feed_arrived()
        wanted = set(tokens)
        interrupts = []
        with self.lock:
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
        with self.lock:
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
        for item in self.waiting:
            staying: list[Input] = []
            for one in item.members:
                (withdrawn if one.token in tokens else staying).append(one)
            if staying:
                kept.append(staying[0]._replace(others=tuple(staying[1:])))
        self.waiting = deque(kept)
        return withdrawn
