"""Inputs that wait in the container, and the running of one of them."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from typing import Any, Callable, NamedTuple, Optional

from intermodal.runner.control import Control
from intermodal.runner.link import Link
from intermodal.runner.loading import Service
from intermodal.runner.outbox import Outbox
from intermodal.runner.streams import CountedStream
from intermodal.runner.values import Values
from modal._protocol.errors import ConnectionLost
from modal._protocol.frames import Frame, Kind
from modal._protocol.messages.call import CallFailure, Status, pack_failure
from modal._protocol.messages.worker import RunInputs

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

    @property
    def members(self) -> tuple[Input, ...]:
        """The inputs of this run."""
        return (self, *self.others)


class NoMoreInputs(Exception):
    """The server wants nothing more of this container."""


class InputQueue:
    """What has arrived and is not started; and which inputs run, to cancel them."""

    def __init__(self, data: Link, outbox: Outbox) -> None:
        self.data = data
        self._outbox = outbox
        self._relinked = threading.Condition()
        self.on_relink: Optional[Callable[[], None]] = None  # called by the control thread
        self._waiting: deque[Input] = deque()
        self._batch: list[Input] = []  # a batch of which more messages are to come
        self._lock = threading.Lock()
        self._running: dict[int, Callable[[], None]] = {}  # token -> how to interrupt it
        self._running_ids: dict[int, str] = {}
        self._cancelled: set[int] = set()

    # -- the reading side
    def take(self) -> Input:
        """The next input; waits for one. Raises NoMoreInputs, or ConnectionLost when the worker is gone for good."""
        while True:
            try:
                return self._waiting.popleft()
            except IndexError:
                self._outbox.flush()
                link = self.data
                try:
                    frames = link.read()
                except (ConnectionLost, OSError):
                    self.wait_relinked(link)
                    continue
                self.feed(frames)

    def wait_relinked(self, old: Link) -> None:
        """Wait until the control thread has found a new worker. Raises ConnectionLost when it gives up."""
        with self._relinked:
            if not self._relinked.wait_for(lambda: self.data is not old, RELINK_SECONDS):
                raise ConnectionLost("the worker is gone")

    def relink(self, data: Link) -> None:
        """There is a new worker (called by the control thread)."""
        with self._relinked:
            self.data = data
            self._relinked.notify_all()
        if self.on_relink is not None:
            self.on_relink()

    def held(self) -> dict[int, str]:
        """Token to input id of all that is waiting or running here."""
        found = {one.token: one.input_id for item in list(self._waiting) for one in item.members}
        found.update({item.token: item.input_id for item in self._batch})
        with self._lock:
            found.update(self._running_ids)
        return found

    def feed(self, frames: list[Frame]) -> None:
        """Queue what frames from the worker bring."""
        for frame in frames:
            if frame.kind == Kind.ITEM and frame.type == RunInputs.TYPE:
                message = RunInputs.decode(frame.header, frame.body)
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
                raise NoMoreInputs

    def _feed_batch(self, items: list[Input], size: int) -> None:
        self._batch.extend(items)
        if len(self._batch) >= size:
            first, *others = self._batch
            self._batch = []
            self._waiting.append(first._replace(others=tuple(others)))

    def take_waiting(self) -> Optional[Input]:
        """The next input that has arrived already."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    # -- what runs
    def begin(self, item: Input, interrupt: Callable[[], None]) -> bool:
        """Note that an input runs. False: it was cancelled before, do not run it."""
        with self._lock:
            if item.token in self._cancelled and not item.others:
                self._cancelled.discard(item.token)
                return False
            for one in item.members:
                self._running[one.token] = interrupt
                self._running_ids[one.token] = one.input_id
            return True

    def finish(self, item: Input) -> None:
        with self._lock:
            for one in item.members:
                self._running.pop(one.token, None)
                self._running_ids.pop(one.token, None)
                self._cancelled.discard(one.token)

    def is_cancelled(self, token: int) -> bool:
        return token in self._cancelled

    def running(self) -> list[int]:
        return list(self._running)

    # -- the control thread
    def recall(self, tokens: list[int]) -> None:
        """Give back those of the inputs that are not started."""
        for item in self._withdraw(set(tokens)):
            self._outbox.put(item.token, Status.RETURNED, b"", "", 0.0, item.input_id)
        self._outbox.flush()

    def cancel(self, tokens: list[int]) -> None:
        """End inputs: the waiting ones quietly, the running ones by interruption."""
        wanted = set(tokens)
        for item in self._withdraw(wanted):
            wanted.discard(item.token)
            self._outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)
        self._outbox.flush()
        with self._lock:
            interrupts = []
            for token in wanted:
                interrupt = self._running.get(token)
                if interrupt is not None:
                    self._cancelled.add(token)
                    interrupts.append(interrupt)
        for interrupt in interrupts:
            interrupt()

    def _withdraw(self, tokens: set[int]) -> list[Input]:
        """Take inputs out of the queue; the main thread may take others meanwhile. A batch stays together."""
        kept, withdrawn = [], []
        while True:
            try:
                item = self._waiting.popleft()
            except IndexError:
                break
            (withdrawn if item.token in tokens else kept).append(item)
        self._waiting.extendleft(reversed(kept))
        return withdrawn


def cancelled_failure() -> bytes:
    """The value of an input that was cancelled."""
    return pack_failure(CallFailure("cancelled", "modal.exception.InputCancellation", "the input was cancelled"))


class Invoker:
    """What all executors share: arguments in, user code, outputs out."""

    def __init__(
        self,
        service: Service,
        queue: InputQueue,
        outbox: Outbox,
        values: Values,
        printed: CountedStream,
        control: Control,
    ) -> None:
        self.service = service
        self.queue = queue
        self.outbox = outbox
        self.values = values
        self.control = control
        self._printed = printed

    def arguments(self, item: Input) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a run. Raises whatever unpickling raises."""
        if self.service.is_batched(item.method):
            return (), self._batched_arguments(item)
        args, kwargs = self.values.read(item.args, item.blob)
        return args, kwargs

    def _batched_arguments(self, item: Input) -> dict[str, Any]:
        """One list for each parameter, with an element for each input."""
        import inspect

        signature = inspect.signature(self.service.find(item.method))
        columns: dict[str, list[Any]] = {}
        for one in item.members:
            args, kwargs = self.values.read(one.args, one.blob)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                columns.setdefault(name, []).append(value)
        return dict(columns)

    def succeed(self, item: Input, result: Any, started: float) -> None:
        """Send a result; one that cannot be pickled is the input's failure."""
        if self.service.is_batched(item.method):
            self._succeed_batch(item, result, started)
            return
        self._succeed_one(item, result, started)

    def _succeed_batch(self, item: Input, results: Any, started: float) -> None:
        """Each caller its own element; an element that is an exception is raised at its caller."""
        members = item.members
        if not isinstance(results, (list, tuple)) or len(results) != len(members):
            got = f"a list of {len(results)}" if isinstance(results, (list, tuple)) else type(results).__name__
            error = TypeError(
                f"{self.service.spec.name} is batched: for {len(members)} inputs it must return a list of "
                f"{len(members)} results, not {got}"
            )
            self.fail(item, error, started)
            return
        for one, result in zip(members, results):
            if isinstance(result, BaseException):
                self._fail_one(one, result, started)
            else:
                self._succeed_one(one, result, started)
        self._settle()

    def _succeed_one(self, item: Input, result: Any, started: float) -> None:
        try:
            value, blob = self.values.write(result)
        except Exception as error:
            self._fail_one(item, error, started)
            return
        self.outbox.put(item.token, Status.SUCCESS, value, blob, time.perf_counter() - started, item.input_id)
        self._settle()

    def yield_item(self, item: Input, result: Any) -> None:
        """Send one item of a generator at once. Raises where it cannot be pickled."""
        value, blob = self.values.write(result)
        self.outbox.put(item.token, Status.YIELDED, value, blob, 0.0, item.input_id)
        self.outbox.flush()

    def exhaust(self, item: Input, started: float) -> None:
        """The generator ended."""
        self.outbox.put(item.token, Status.EXHAUSTED, b"", "", time.perf_counter() - started, item.input_id)
        self.outbox.flush()

    def fail(self, item: Input, error: BaseException, started: float) -> None:
        """Send what user code raised."""
        for one in item.members:
            self._fail_one(one, error, started)
        self._settle()

    def _fail_one(self, item: Input, error: BaseException, started: float) -> None:
        from modal._serialization import failure_of

        if self.queue.is_cancelled(item.token):
            self.outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)
        else:
            value = pack_failure(failure_of(error))
            self.outbox.put(item.token, Status.FAILURE, value, "", time.perf_counter() - started, item.input_id)
        self._settle()

    def _settle(self) -> None:
        """What an input printed is attributed to it only if its output leaves before the next one starts."""
        if self._printed.take():
            self.outbox.flush()


def iterate(item: Input, result: Any, invoker: Invoker, started: float) -> None:
    """Run a generator to its end."""
    if not hasattr(result, "__iter__"):
        raise TypeError(f"{invoker.service.spec.name} is a generator function but returned {type(result).__name__}")
    for part in result:
        invoker.yield_item(item, part)
    invoker.exhaust(item, started)
