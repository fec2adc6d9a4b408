"""Calls, inputs and outputs: from the client's connection to the scheduler and back. The hot path.

Inputs of `.remote` and `.map` live in memory and belong to the waiting client, which sends them again
after a reconnect; inputs of `.spawn` are on disk before they are acknowledged, and only a window of
them is in memory. Nothing here is awaited between an input's arrival and its way to a container.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from intermodal.server.delivery import Delivery
from intermodal.server.dispatch import Dispatch, Function
from intermodal.server.inputs import Call, Held
from intermodal.server.waits import Waits
from modal._protocol.aio import Connection, Handlers, Stream
from modal._protocol.errors import Code, Fault
from modal._protocol.frames import Frame
from modal._protocol.messages.call import (
    CallCancel,
    CallFailure,
    CallOpen,
    Inputs,
    Invoke,
    OutputsTaken,
    Status,
    pack_failure,
)
from modal._protocol.messages.function import FunctionSpec
from modal._protocol.messages.wire import Done

if TYPE_CHECKING:
    from intermodal.server.spawns import Spawns

ORPHAN_SECONDS = 60.0  # how long a call of a vanished client is kept for it to come back
PENDING_LIMIT = 2000  # inputs of a function that wait for a container
TOTAL_LIMIT = 25000  # inputs of a function that wait or run


class Calls:
    """All calls that are in memory. `dispatch` carries out what the scheduler decides."""

    def __init__(
        self,
        dispatch: Dispatch,
        may_call: Callable[[Connection, str], None],
        log_seq: Callable[[str], int],
        spawns: Spawns | None = None,
    ) -> None:
        self.calls: dict[str, Call] = {}
        self.dispatch = dispatch
        self.spawns = spawns
        self.over: Callable[[Held, int], None] = lambda _held, _status: None  # told of calls that inputs have made
        self.waits = Waits(dispatch, self.calls.get, *([spawns.known_call] if spawns is not None else []))
        if spawns is not None:
            spawns.waits = self.waits
        self._may_call = may_call  # raises Fault unless this connection may call this function
        self.delivery = Delivery(dispatch, log_seq, self.calls.get, self._forget)
        dispatch.deliver = self.deliver
        dispatch.settled = self.settle

    def register(self, handlers: Handlers) -> None:
        """Answer Invoke, CallOpen, CallCancel and OutputsTaken."""
        handlers.fast(Invoke)(self._invoke)
        handlers.note(OutputsTaken)(self.delivery.taken)
        handlers.stream(CallOpen)(self._open)
        handlers.unary(CallCancel)(self._cancel)

    # -- one input, one output
    def _invoke(self, connection: Connection, stream_id: int, message: Invoke) -> None:
        try:
            self._take_invoke(connection, stream_id, message)
        finally:
            if message.taken:  # when the input is on its way
                connection.loop.call_soon(self._arrived, message.taken)

    def _arrived(self, call_ids: list[str]) -> None:
        for call_id in call_ids:
            self.delivery.arrived(call_id)

    def _take_invoke(self, connection: Connection, stream_id: int, message: Invoke) -> None:
        call = self.calls.get(message.call_id)
        if call is not None:
            self._reattach(call, connection, stream_id)
            known = call.inputs.get(0)
            if message.blob:
                call.large_args[0] = message.blob
            if known is not None and known.fill(message.args, message.blob, message.method):
                self.dispatch.accept(self.dispatch.function(call.function_id), [known])
            return
        function = self._admit(connection, message.function_id, 1)
        call = Call(message.call_id, function.function_id, function.app_id, "unary", message.parent_input_id)
        call.reply_to(connection, stream_id)
        self.calls[call.id] = call
        self._follow(connection, call)
        self.waits.follow(call)
        held = Held(call, 0, message.args, message.blob, message.method)
        call.inputs[0] = held
        if message.blob:
            call.large_args[0] = message.blob
        self.dispatch.accept(function, [held])

    def _reattach(self, call: Call, connection: Connection, stream_id: int) -> None:
        """The client asks again after a reconnect."""
        if call.kind == "adopted":
            call.kind = "unary"
        self._may_call(connection, call.function_id)
        call.reply_to(connection, stream_id)
        self._follow(connection, call)
        self.waits.follow(call)
        self.delivery.send(call)

    # -- many inputs
    async def _open(self, connection: Connection, message: CallOpen, stream: Stream) -> None:
        if message.kind not in ("map", "generator"):
            raise Fault(Code.INVALID, f"a call of kind {message.kind!r} cannot be opened")
        call = self.calls.get(message.call_id)
        if call is None and not message.resume:
            function = self._admit(connection, message.function_id, 1)
        else:  # it was taken before
            self._may_call(connection, message.function_id)
            function = self.dispatch.function(message.function_id)
        if call is None:
            call = Call(message.call_id, function.function_id, function.app_id, message.kind, message.parent_input_id)
            call.yielded = message.yields_seen if message.resume else 0
            self.calls[call.id] = call
        elif call.kind == "adopted":
            call.kind, call.parent_input_id = message.kind, message.parent_input_id
        if call.over is not None and not call.over.done():
            call.over.set_result(None)  # the connection that it came on before
        call.stream_to(connection, stream)
        self._follow(connection, call)
        self.waits.follow(call)
        self.delivery.reopened(call)
        call.over = asyncio.get_running_loop().create_future()
        self.delivery.send(call)

        def take(frame: Frame) -> None:
            if frame.type != Inputs.TYPE:
                return
            try:
                self._take_inputs(call, Inputs.decode(frame.header, frame.body))
            except Fault as fault:
                connection.fail(stream.id, fault)
                self._drop(call)

        def ended(error: Exception | None) -> None:
            if call.stream is not stream:
                return  # a newer connection has taken the call over
            if error is None:
                call.inputs_ended = True
                self._drop_answered(call)
                self.delivery.end_if_over(call)
            elif isinstance(error, Fault):
                self._drop(call)  # the caller gave it up

        stream.on_end = ended
        for frame in stream.take_queued():
            take(frame)
        stream.raw = take
        if stream.is_ended:
            ended(None)
        try:
            await call.over
        except asyncio.CancelledError:
            if call.stream is stream and not connection.closed:
                self._drop(call)  # given up after its last input was sent
            raise

    def _take_inputs(self, call: Call, message: Inputs) -> None:
        function = self.dispatch.function(call.function_id)
        count = len(message.indexes)
        if len(message.args) != count:
            raise Fault(Code.INVALID, "inputs and their arguments differ in number")
        blobs = message.blobs or [""] * count
        methods = message.methods or [""] * count
        new = []
        for index, args, blob, method in zip(message.indexes, message.args, blobs, methods, strict=True):
            if blob:
                call.large_args[index] = blob
            if index in call.inputs or index in call.done:  # sent again after a reconnect
                known = call.inputs.get(index)
                if known is not None and known.fill(args, blob, method):
                    new.append(known)
                continue
            held = Held(call, index, args, blob, method)
            call.inputs[index] = held
            new.append(held)
        if new:
            self._check_total(function, len(new))
            self.dispatch.accept(function, new)

    def _drop_answered(self, call: Call) -> None:
        """The client has sent what it has no answer to (again): what is known by name alone, it has the answer to."""
        answered = [held for held in call.inputs.values() if held.is_hollow]
        if answered:
            failure = pack_failure(CallFailure("cancelled", text="the client has its result"))
            for held in answered:
                self.dispatch.finish(held, Status.TERMINATED, failure, interrupt=True)
            self.settle()

    # -- outputs
    def deliver(
        self, held: Held, status: int, value: bytes, blob: str, number: int = -1, express: bool = False
    ) -> None:
        """An output of an input: a generator's item, or the final one. It leaves with the next `settle`."""
        if held.call.direct is not None:
            self.calls.pop(held.call.id, None)
            held.call.direct.ended(status, value)
        elif held.call.kind == "spawn":
            assert self.spawns is not None
            self.spawns.deliver(held, status, value, blob)
        else:
            if held.call.parent_input_id and status != Status.YIELDED:
                self.over(held, status)
            self.delivery.take(held, status, value, blob, number, express)

    def settle(self) -> None:
        """Send what the last events have produced."""
        self.delivery.settle()

    def _forget(self, call: Call) -> None:
        """Nothing more can be asked of the call."""
        if self.calls.get(call.id) is call:
            del self.calls[call.id]
        if call.large_args:
            self.delivery.forget_values(call.large_args.values())
        call.leave()

    # -- the ends
    async def _cancel(self, connection: Connection, message: CallCancel) -> Done:
        call = self.calls.get(message.call_id)
        if call is not None:
            self._may_call(connection, call.function_id)
            self.cancel_inputs(list(call.inputs.values()), message.terminate_containers)
        if self.spawns is not None:
            await self.spawns.cancel(message.call_id, message.terminate_containers)
        elif call is None:
            raise Fault(Code.NOT_FOUND, f"there is no function call {message.call_id}")
        return Done()

    def cancel_inputs(self, inputs: list[Held], terminate_containers: bool = False) -> None:
        """End inputs that have no result: TERMINATED for whoever waits, an interruption for what runs."""
        failure = pack_failure(
            CallFailure("cancelled", "modal.exception.InputCancellation", "the function call was cancelled")
        )
        for held in inputs:
            self.dispatch.finish(held, Status.TERMINATED, failure, interrupt=True, kill=terminate_containers)
        self.settle()

    def fail_function(self, function_id: str, failure: CallFailure, status: int = Status.INIT_FAILURE) -> None:
        """All inputs of a function fail, for one reason."""
        value = pack_failure(failure)
        for call in [call for call in self.calls.values() if call.function_id == function_id]:
            for held in list(call.inputs.values()):
                self.dispatch.finish(held, status, value)
        self.settle()

    def _drop(self, call: Call) -> None:
        """Nobody wants the outputs any more."""
        failure = pack_failure(CallFailure("cancelled", text="the client has gone away"))
        for held in list(call.inputs.values()):
            self.dispatch.finish(held, Status.TERMINATED, failure, interrupt=True)
        call.inputs.clear()
        self.delivery.drop(call)
        if call.over is not None and not call.over.done():
            call.over.set_result(None)

    def _follow(self, connection: Connection, call: Call) -> None:
        """Notice when the client's connection ends."""
        followed = _followed(connection)
        if not followed.attached:
            followed.attached = True
            connection.on_close.append(lambda _error: self._orphan(connection))
            connection.on_cancel = lambda stream_id: self._given_up(connection, stream_id)
        followed.calls[call.id] = call

    def _given_up(self, connection: Connection, stream_id: int) -> None:
        """The caller has stopped waiting for an Invoke (an interrupt, a cancelled task): its input ends."""
        for call in list(_followed(connection).calls.values()):
            if call.stream is None and call.reply_id == stream_id and call.connection is connection:
                self._drop(call)

    def adopt(self, call_id: str, function_id: str, app_id: str) -> Call:
        """A container of an earlier life of the server has inputs of this call; its client may come back for it."""
        call = self.calls.get(call_id)
        if call is None:
            call = self.calls[call_id] = Call(call_id, function_id, app_id, "adopted")
            asyncio.get_running_loop().call_later(ORPHAN_SECONDS, self._bury, [call])
        return call

    def _orphan(self, connection: Connection) -> None:
        """The client may come back; if not, its calls end."""
        orphans = [call for call in _followed(connection).calls.values() if call.connection is connection]
        _followed(connection).calls.clear()
        for call in orphans:
            call.connection = None
            call.stream = None
            if call.over is not None and not call.over.done():
                call.over.set_result(None)
        if orphans:
            asyncio.get_running_loop().call_later(ORPHAN_SECONDS, self._bury, orphans)

    def _bury(self, orphans: list[Call]) -> None:
        for call in orphans:
            if call.connection is None and self.calls.get(call.id) is call:
                self._drop(call)
        self.settle()

    def drop_app(self, app_id: str) -> None:
        """The app has ended: whoever still waits hears so."""
        failure = pack_failure(CallFailure("cancelled", text="the app was stopped"))
        for call in [call for call in self.calls.values() if call.app_id == app_id]:
            for held in list(call.inputs.values()):
                self.dispatch.finish(held, Status.TERMINATED, failure, interrupt=True)
        self.settle()

    # -- limits
    def _admit(self, connection: Connection, function_id: str, count: int) -> Function:
        """The function, if this connection may call it and there is room for its inputs. Raises Fault.

        A map is taken while there is room for one input, and may have MAP_IN_FLIGHT of them from then on.
        """
        self._may_call(connection, function_id)
        function = self.dispatch.function(function_id)
        if self.pending(function) + count > PENDING_LIMIT:
            raise self._exhausted(function)
        self._check_total(function, count)
        return function

    def _check_total(self, function: Function, count: int) -> None:
        """Raises Fault where there is no room for so many inputs more."""
        pool = function.pool
        if len(pool.queue) + pool.assigned - self._spawned(function) + count > TOTAL_LIMIT:
            raise self._exhausted(function)

    def pending(self, function: Function) -> int:
        """Inputs that wait for a container, spawned ones apart: these have a limit of their own."""
        return max(0, len(function.pool.queue) - self._spawned(function))

    def _spawned(self, function: Function) -> int:
        return self.spawns.in_memory(function.function_id) if self.spawns is not None else 0

    def _exhausted(self, function: Function) -> Fault:
        pending, running = self.pending(function), function.pool.assigned
        return Fault(
            Code.EXHAUSTED,
            f"{function.name} has {pending} pending and {running} running inputs, and no more than "
            f"{PENDING_LIMIT} pending ones and {TOTAL_LIMIT} in all are taken: try again later, or use .spawn",
        )

    def waiting(self, function_id: str) -> int:
        """Inputs of a function that somebody waits for."""
        return sum(len(call.inputs) for call in self.calls.values() if call.function_id == function_id)


class _Followed:
    """The calls of one client connection."""

    __slots__ = ("attached", "calls")

    def __init__(self) -> None:
        self.attached = False
        self.calls: dict[str, Call] = {}


def _followed(connection: Connection) -> _Followed:
    found = getattr(connection, "followed_calls", None)
    if found is None:
        found = connection.followed_calls = _Followed()  # type: ignore[attr-defined]
    return found


def function_name(spec: FunctionSpec) -> str:
    """How people know the function."""
    return spec.name


def now() -> float:
    """The scheduler's clock: seconds, monotonic."""
    return time.monotonic()
