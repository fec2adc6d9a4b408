"""Outputs on their way out: gathered into batches, but never kept while nothing happens.

What was sent is kept until the server has acknowledged it, so that a worker that was restarted in
between can have it again.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from intermodal.runner.express import Express
from intermodal.runner.link import Link
from modal._protocol.message import Message
from modal._protocol.messages.call import BATCH_BYTES, BATCH_INPUTS, Status
from modal._protocol.messages.worker import RunnerHolds, RunnerResumed, RunOutputs

HOLD_SECONDS = 0.002  # how long an output may wait for company while the next input runs
SHORT_SECONDS = 0.0002  # the output of a longer run leaves at once: the next input may end the process
MAX_UNSAFE = 4096  # messages that the server has not acknowledged, above which generators wait
MAX_UNSAFE_BYTES = 64 << 20  # the same in bytes


class Outbox:
    """Safe to use from several threads."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._tokens: list[int] = []
        self._statuses: list[int] = []
        self._values: list[bytes] = []
        self._blobs: list[str] = []
        self._durations: list[float] = []
        self._numbers: list[int] = []  # of items of generators; shorter than `_tokens` where the rest are none
        self._any_blob = False
        self._bytes = 0
        self._oldest = 0.0
        self._sent: deque[tuple[RunOutputs, int]] = deque()  # not acknowledged, with their bytes
        self._sent_bytes = 0
        self._first = 0  # number of the first one in `_sent`
        self._ids: dict[int, str] = {}  # token -> input id, of final outputs that are not acknowledged
        self._express: Express | None = None

    @property
    def is_full(self) -> bool:
        """Whether so much is unacknowledged (the server is away, or behind) that generators must wait."""
        return len(self._sent) >= MAX_UNSAFE or self._sent_bytes >= MAX_UNSAFE_BYTES

    def put(
        self,
        token: int,
        status: int,
        value: bytes,
        blob: str = "",
        duration: float = 0.0,
        input_id: str = "",
        number: int = -1,
        express: bool = False,
    ) -> None:
        """Keep one output; sends when the batch is full or its first output has waited long enough.

        `number`: of a generator's item. `express`: its input came by the express way, and it may leave by it.
        """
        with self._lock:
            if not self._tokens:
                self._oldest = time.perf_counter()
            if number >= 0:
                self._numbers.extend([-1] * (len(self._tokens) - len(self._numbers)))
                self._numbers.append(number)
            self._tokens.append(token)
            self._statuses.append(status)
            self._values.append(value)
            self._blobs.append(blob)
            self._durations.append(round(duration, 6))
            if status != Status.YIELDED:
                self._ids[token] = input_id
            self._any_blob = self._any_blob or bool(blob)
            self._bytes += len(value)
            full = len(self._tokens) >= BATCH_INPUTS or self._bytes >= BATCH_BYTES
            if express and len(self._tokens) == 1 and self._express is not None and self._send_express(token):
                return
            if full or duration > SHORT_SECONDS or time.perf_counter() - self._oldest > HOLD_SECONDS:
                self._flush()

    def flush(self) -> None:
        """Send what is there."""
        if self._tokens:
            with self._lock:
                self._flush()

    def tell(self, message: Message) -> None:
        """Send a message that is no output, behind all outputs. Lost where the worker is away."""
        with self._lock:
            self._flush()
            try:
                self._link.send(message)
            except OSError:
                pass  # a new worker learns from `resume` what it must know

    def _send_express(self, token: int) -> bool:
        assert self._express is not None
        if not self._express.send(token, RunOutputs(self._tokens, self._statuses, self._values, [], self._durations)):
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._tokens, self._statuses, self._values = [], [], []
        self._blobs, self._durations = [], []
        self._any_blob, self._bytes = False, 0

    def _flush(self) -> None:
        if not self._tokens:
            return
        blobs = self._blobs if self._any_blob else []
        numbers = self._numbers
        if numbers:
            numbers.extend([-1] * (len(self._tokens) - len(numbers)))
            self._numbers = []
        message = RunOutputs(self._tokens, self._statuses, self._values, blobs, self._durations, numbers)
        size = self._bytes
        self._begin()
        self._send(message, size)

    def _send(self, message: RunOutputs, size: int) -> None:
        self._sent.append((message, size))
        self._sent_bytes += size
        try:
            self._link.send(message)
        except OSError:
            pass  # the worker is away; sent again when it is back

    def acknowledged(self, count: int) -> None:
        """The server has the messages up to this count."""
        with self._lock:
            while self._sent and self._first < count:
                message, size = self._sent.popleft()
                self._sent_bytes -= size
                self._first += 1
                for token, status in zip(message.tokens, message.statuses):  # noqa: B905 - Python 3.9
                    if status != Status.YIELDED:
                        self._ids.pop(token, None)

    # -- the express way
    def open_express(self, express: Express) -> None:
        """There is an express way from now on."""
        with self._lock:
            for message in self._take_express():
                self._send(message, len(message.values[0]))
            self._express = express

    def express_acknowledged(self, tokens: list[int]) -> None:
        """The outputs of these have reached their clients."""
        with self._lock:
            for token in tokens:
                self._ids.pop(token, None)
                if self._express is not None:
                    self._express.unsafe.pop(token, None)

    def express_copied(self, token: int) -> None:
        """An input that came by the express way has come by the worker too, which waits for its output."""
        with self._lock:
            message = self._express.copied(token) if self._express is not None else None
            if message is not None:
                self._flush()
                self._send(message, len(message.values[0]))

    def leave_express(self, token: int, input_id: str) -> None:
        """The server may be gone: the worker shall have what came by the express way. `token`: of the last of these."""
        with self._lock:
            held: dict[int, str] = {}
            if self._express is not None:
                held.update((one, self._ids.get(one, "")) for one in self._express.unsafe)
                if token >= 0 and token not in self._ids and not self._express.has_answered(token):
                    self._express.bar(token)
                    held[token] = input_id
            try:
                self._link.send(RunnerHolds(list(held), list(held.values())))
            except OSError:
                pass  # a new worker learns it from `resume`
            for message in self._take_express():
                self._send(message, len(message.values[0]))

    def _take_express(self) -> list[RunOutputs]:
        """What has left by the express way and may not have arrived: it goes by the worker now."""
        if self._express is None:
            return []
        unsafe, self._express.unsafe = self._express.unsafe, {}
        return list(unsafe.values())

    def resume(self, link: Link, ready: bool, held: dict[int, str], app_id: str, function_id: str) -> None:
        """Go on with a new worker: tell what is held (token -> input id), send again what is not acknowledged."""
        with self._lock:
            known = {**self._ids, **held}
            tokens = [token for token, input_id in known.items() if input_id]
            ids = [known[token] for token in tokens]
            link.send(RunnerResumed(self._first, ready, tokens, ids, app_id, function_id, self._returned()))
            for message in self._take_express():
                self._sent.append((message, len(message.values[0])))
                self._sent_bytes += len(message.values[0])
            for message, _size in self._sent:
                link.send(message)
            self._link = link

    def _returned(self) -> list[int]:
        """What was given back in messages that are not acknowledged, or not sent yet."""
        batches = [(message.tokens, message.statuses) for message, _size in self._sent]
        batches.append((self._tokens, self._statuses))
        return [
            token
            for tokens, statuses in batches
            for token, status in zip(tokens, statuses)  # noqa: B905 - Python 3.9
            if status == Status.RETURNED
        ]
