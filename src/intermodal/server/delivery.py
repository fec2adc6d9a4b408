"""Outputs on their way to waiting clients: kept until they have arrived, and never far ahead of a slow reader.

A worker keeps the messages of its containers until the server acknowledges them; the server does so when the
outputs in them have reached their clients. Whatever dies in between, an output exists somewhere, so nothing
that has finished is run again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.inputs import Call, Held
from modal._protocol.aio import Connection
from modal._protocol.messages.call import BATCH_BYTES, BATCH_INPUTS, INLINE_LIMIT, Outputs, OutputsTaken, Status

SEND_WINDOW = 1 << 20  # bytes of a call that may be under way to its client
SEND_COUNT = 4096  # outputs, the same
PAUSE_BYTES = 1 << 20  # of items that wait here, above which a generator is held up
RESUME_BYTES = 1 << 18  # below which it may go on
OUTPUT_COST = 64  # bytes that an output counts for beyond its value
KEPT_SECONDS = 60.0  # how long an answer is kept for a client that has not said that it arrived
KEPT_BYTES = 64 << 20  # of such answers, in all
KEPT_CALLS = 20_000  # the same in number
BLOB_COST = INLINE_LIMIT  # bytes that a large value counts for here: it lies on disk


class Output(NamedTuple):
    """One output on its way. `container` and `frame` say what may be acknowledged once it has arrived."""

    position: int  # its input's index in the call
    status: int
    value: bytes
    blob: str
    number: int  # of a generator's item, else -1
    container: Container | None
    frame: int  # negative: its token, where it came by the express way

    @property
    def cost(self) -> int:
        return len(self.value) + (BLOB_COST if self.blob else 0) + OUTPUT_COST


class Delivery:
    """`forget(call)` is called when nothing more can be asked of a call; `find` knows calls by id."""

    def __init__(
        self,
        dispatch: Dispatch,
        log_seq: Callable[[str], int],
        find: Callable[[str], Call | None],
        forget: Callable[[Call], None],
    ) -> None:
        self._dispatch = dispatch
        self._find = find
        self._log_seq = log_seq
        self._forget = forget
        self._due: set[Call] = set()
        self._kept: dict[Call, float] = {}  # answered, but perhaps not arrived -> until when; the oldest first
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.forget_values: Callable[[Iterable[str]], None] = lambda _blobs: None  # arguments that nobody needs again

    # -- from containers
    def take(self, held: Held, status: int, value: bytes, blob: str, number: int, express: bool) -> None:
        """An output of an input: a generator's item, or the final one. It leaves with the next `settle`.

        `express`: it has come by the express way, so its container keeps it by its token instead of its frame.
        """
        call = held.call
        container: Container | None = held.container
        if status == Status.YIELDED:
            if number < call.yielded:  # an item of another attempt, which the client has, or will have
                if blob:
                    self.forget_values([blob])
                return
            call.yielded = number + 1
        else:
            call.inputs.pop(held.index, None)
            if call.kind != "unary":
                call.done.add(held.index)
        frame = 0
        if container is None:
            pass
        elif express:
            frame = -held.token
        else:
            frame = container.frames
            container.unsafe[frame] = container.unsafe.get(frame, 0) + 1
        output = Output(held.index, status, value, blob, number, container, frame)
        call.unsent.append(output)
        if call.kind in ("generator", "adopted"):
            call.unsent_bytes += output.cost
            if call.unsent_bytes > PAUSE_BYTES and status == Status.YIELDED:
                self._pause(held)
        self._due.add(call)

    def _pause(self, held: Held) -> None:
        container: Container | None = held.container
        if container is not None and held.paused_in is not container and container.link is not None:
            held.paused_in = container
            container.link.pause([held.token])

    def _go_on(self, call: Call) -> None:
        for held in call.inputs.values():
            container, held.paused_in = held.paused_in, None
            if container is not None and container is held.container and container.link is not None:
                container.link.resume([held.token])

    # -- to clients
    def settle(self) -> None:
        """Send what the last events have produced."""
        if self._due:
            due, self._due = self._due, set()
            for call in due:
                self.send(call)
            if len(due) == 1 and call.stream is None and call.connection is not None:
                call.connection.flush()  # the only answer: its client need not wait for what else is to be done here

    def send(self, call: Call) -> None:
        """Send what waits, as far as the client keeps up."""
        connection = call.connection
        if connection is None or connection.closed:
            return  # kept until the client is back
        if call.stream is None:
            self._answer(call, connection)
            return
        unsent, sent = call.unsent, call.sent
        while unsent and call.sent_bytes < SEND_WINDOW and len(sent) < SEND_COUNT:
            batch = _next_batch(unsent, call.kind == "generator")
            cost = sum([output.cost for output in batch])
            call.sent_bytes += cost
            if call.kind == "generator":
                call.unsent_bytes = max(0, call.unsent_bytes - cost)
            sent.extend(batch)
            call.stream.send_now(self._message(call, batch))
        if call.kind == "generator" and call.unsent_bytes < RESUME_BYTES:
            self._go_on(call)
        self.end_if_over(call)

    def _answer(self, call: Call, connection: Connection) -> None:
        """The response to Invoke. A call that was adopted waits until its client asks for it."""
        outputs = call.unsent or call.sent
        if not outputs or outputs[-1].status == Status.YIELDED:
            return
        final = outputs[-1]
        call.unsent.clear()
        if not call.sent:
            call.sent.append(final)
            self._keep(call, final.cost)
        connection.respond(call.reply_id, self._message(call, [final]))
        call.leave()

    def _message(self, call: Call, batch: list[Output]) -> Outputs:
        indexes, statuses, values, blobs, numbers, *_ = zip(*batch, strict=True)
        return Outputs(
            list(indexes),
            list(statuses),
            list(values),
            list(blobs) if any(blobs) else [],
            self._log_seq(call.app_id),
            numbers[0],
        )

    def end_if_over(self, call: Call) -> None:
        """The stream may end when every input has its output and all are on their way."""
        if call.inputs_ended and not call.inputs and not call.unsent and call.over is not None and not call.over.done():
            call.over.set_result(None)
            if call.sent:
                self._keep(call, call.sent_bytes)
            else:
                self._forget(call)

    # -- what has arrived
    def taken(self, connection: Connection, message: OutputsTaken) -> None:
        """The client says how far it is."""
        for call_id, count in zip(message.call_ids, message.counts, strict=False):
            call = self._find(call_id)
            if call is None:
                continue
            if call.stream is None:
                if call in self._kept:
                    self.drop(call)
            elif call.connection is connection:
                self._taken(call, count)

    def arrived(self, call_id: str) -> None:
        """The client has the answer to this unary call."""
        call = self._find(call_id)
        if call is not None and call in self._kept and call.stream is None:
            self.drop(call)

    def _taken(self, call: Call, count: int) -> None:
        sent = call.sent
        while sent and call.taken < count:
            output = sent.popleft()
            call.taken += 1
            call.sent_bytes -= output.cost
            self._safe(output)
            if call.large_args and output.status != Status.YIELDED and output.position in call.large_args:
                self.forget_values([call.large_args.pop(output.position)])
        if call.unsent:
            self.send(call)
        elif not sent and call in self._kept:
            self.drop(call)

    def reopened(self, call: Call) -> None:
        """The client is back on another connection: what may have been lost is sent again."""
        if call.sent:
            call.unsent.extendleft(reversed(call.sent))
            if call.kind == "generator":
                call.unsent_bytes += call.sent_bytes
            call.sent.clear()
        call.sent_bytes = call.taken = 0
        self._unkeep(call)

    def drop(self, call: Call) -> None:
        """Nobody will ask for its outputs again."""
        self._due.discard(call)
        gone = call.connection is None or call.connection.closed
        for output in (*call.sent, *call.unsent):
            self._safe(output)
        for output in (*call.sent, *call.unsent) if gone else call.unsent:  # else the client says when it has read it
            if output.blob:
                self.forget_values([output.blob])
        call.sent.clear()
        call.unsent.clear()
        call.unsent_bytes = call.sent_bytes = 0
        self._unkeep(call)
        self._forget(call)

    def _safe(self, output: Output) -> None:
        container = output.container
        if container is None:
            return
        if output.frame < 0:
            self._dispatch.express.arrived(container, -output.frame)
            return
        left = container.unsafe.get(output.frame, 0) - 1
        if left > 0:
            container.unsafe[output.frame] = left
        elif not left:
            del container.unsafe[output.frame]
            self._dispatch.durable(container)

    # -- kept answers
    def _keep(self, call: Call, size: int) -> None:
        loop = asyncio.get_running_loop()
        self._kept[call] = loop.time() + KEPT_SECONDS
        call.kept_bytes = size
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_CALLS:
            self.drop(next(iter(self._kept)))
        if self._timer is None:
            self._timer = loop.call_later(KEPT_SECONDS, self._expire)

    def _unkeep(self, call: Call) -> None:
        if self._kept.pop(call, None) is not None:
            self._kept_bytes -= call.kept_bytes

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._kept:
            call, until = next(iter(self._kept.items()))
            if until > loop.time():
                self._timer = loop.call_at(until, self._expire)
                return
            self.drop(call)


def _next_batch(unsent: deque[Output], generator: bool) -> list[Output]:
    """Outputs for one message of bounded size; of a generator, items whose numbers follow each other."""
    batch: list[Output] = []
    size = 0
    while unsent:
        output = unsent[0]
        if batch and (len(batch) >= BATCH_INPUTS or size + len(output.value) > BATCH_BYTES):
            break
        if generator and batch and output.number >= 0 and output.number != batch[-1].number + 1:
            break
        batch.append(unsent.popleft())
        size += len(output.value)
    return batch


__all__ = ["Delivery", "Output"]
