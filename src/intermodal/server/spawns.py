"""Spawned inputs: on disk before they are acknowledged, in memory only as far as containers need them soon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from intermodal.server.dispatch import Container, Dispatch
from intermodal.server.inputs import Call, Held
from intermodal.server.store.calls import CANCELLED, EXPIRED, Added, Attempts, CallStore, Finished, NewCall, NewInput
from intermodal.server.waits import Waits
from modal._protocol.aio import Connection, Handlers
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.call import (
    CallAwait,
    CallFailure,
    Outputs,
    Spawn,
    Status,
    pack_failure,
    unpack_failure,
)
from modal._protocol.messages.wire import Done

WINDOW = 2000  # inputs of a function in memory, about
REFILL = 1000  # inputs read from disk at once
RETRY_SECONDS = 1.0  # until results that could not be stored are stored again
CANCELLED_KEPT = 10_000  # cancelled calls that are remembered
SPAWN_LIMIT = 1_000_000  # spawned inputs of a function without an output

Key = tuple[str, int]
log = logging.getLogger(__name__)


class _Function:
    """Where a function's spawned inputs stand. What lies on disk beyond `cursor` is the backlog."""

    __slots__ = ("cursor", "late", "live", "loading", "pending")

    def __init__(self) -> None:
        self.cursor = 0
        self.loading = False
        self.live = 0  # inputs in memory without an output
        self.late = 0  # inputs that came while it was loading, which may have read before they were there
        self.pending = 0  # inputs without an output, in memory and on disk


class Spawns:
    """Calls made with `.spawn` and `.spawn_map`."""

    def __init__(
        self,
        store: CallStore,
        dispatch: Dispatch,
        may_call: Callable[[Connection, str], None],
        log_seq: Callable[[str], int],
    ) -> None:
        self.live: dict[Key, Held] = {}  # in memory, without an output
        self._store = store
        self._dispatch = dispatch
        self._may_call = may_call
        self._log_seq = log_seq
        self._functions: dict[str, _Function] = {}
        self._calls: dict[str, Call] = {}
        self._waiting: dict[Key, list[asyncio.Future[Finished]]] = {}
        self._finished: list[Finished] = []
        self._finished_in: dict[Container, None] = {}
        self._flush_due = False
        self.waits: Waits
        self.report: Callable[[Held, CallFailure], None] = lambda _held, _failure: None  # nobody waits for the result
        self._unwatched: set[str] = set()  # calls that no client has asked for
        self._retried: list[tuple[Held, str]] = []
        self._unstored: set[Key] = set()  # inputs whose outputs are on their way to the disk
        self._cancelled: dict[str, None] = {}  # calls, the oldest first
        self.secure_value: Callable[[str], object] = lambda _blob: None  # blocks until it is on disk; raises Fault
        dispatch.refill = self.refill
        dispatch.retried = self.retried
        dispatch.hollow = self.hollow

    def register(self, handlers: Handlers) -> None:
        handlers.fast(Spawn)(self._spawn)
        handlers.unary(CallAwait)(self._await)

    # -- in
    def _spawn(self, connection: Connection, stream_id: int, message: Spawn) -> None:
        self._may_call(connection, message.function_id)
        function = self._dispatch.function(message.function_id)
        count = len(message.indexes)
        if len(message.args) != count:
            raise Fault(Code.INVALID, "inputs and their arguments differ in number")
        state = self._state(message.function_id)
        if state.pending + count > SPAWN_LIMIT:
            raise Fault(
                Code.EXHAUSTED,
                f"{function.name} has {state.pending} spawned inputs without a result, and no more than {SPAWN_LIMIT} "
                "are taken: try again later",
            )
        if any(message.blobs):
            self._dispatch.keep_task(
                asyncio.get_running_loop().create_task(self._spawn_large(connection, stream_id, message))
            )
        else:
            self._store_spawned(connection, stream_id, message)

    async def _spawn_large(self, connection: Connection, stream_id: int, message: Spawn) -> None:
        """What a stored input names is on the disk before the input is."""
        try:
            for index, blob in zip(message.indexes, message.blobs, strict=False):
                if blob:
                    await self._secure_args(message.call_id, index, blob)
        except Fault as fault:
            connection.fail(stream_id, fault)
        except OSError as error:
            connection.fail(stream_id, Fault(Code.INTERNAL, f"a large argument could not be stored: {error}"))
        else:
            self._store_spawned(connection, stream_id, message)

    async def _secure_args(self, call_id: str, index: int, blob: str) -> None:
        try:
            await asyncio.to_thread(self.secure_value, blob)
        except Fault:
            # A message that is sent again may come after its input has run.
            if await self._store.input(call_id, index) is None and await self._store.output(call_id, index) is None:
                raise

    def _store_spawned(self, connection: Connection, stream_id: int, message: Spawn) -> None:
        count = len(message.indexes)
        blobs = message.blobs or [""] * count
        methods = message.methods or [""] * count
        rows = list(map(NewInput, message.indexes, message.args, blobs, methods))
        state = self._state(message.function_id)
        state.pending += count  # what is on its way to the disk counts

        def done(added: Added | None, error: Exception | None) -> None:
            state.pending -= count - (len(added.indexes) if added is not None else 0)
            if added is None:
                connection.fail(stream_id, _not_stored(error))
                return
            connection.respond(stream_id, Done())
            if added.indexes:
                self._added(message, rows, added)

        call = NewCall(message.call_id, message.function_id, message.parent_input_id)
        self._store.add_spawned_soon(call, rows, message.last, done)

    async def start(self, function_id: str, args: bytes, call_id: str) -> bool:
        """An input that no client has asked for, on disk when this returns; False: this call was there already.

        Faults: not-found, exhausted, and what keeps the store from writing.
        """
        function = self._dispatch.function(function_id)
        state = self._state(function_id)
        if state.pending >= SPAWN_LIMIT:
            raise Fault(Code.EXHAUSTED, f"{function.name} has {SPAWN_LIMIT} spawned inputs without a result")
        row = NewInput(0, args, "", "")
        state.pending += 1
        added: asyncio.Future[Added] = asyncio.get_running_loop().create_future()

        def done(result: Added | None, error: Exception | None) -> None:
            state.pending -= 1 - (len(result.indexes) if result is not None else 0)
            if result is not None and result.indexes:
                self._unwatched.add(call_id)
                self._added(Spawn(call_id, function_id, [0], [args]), [row], result)
            if added.cancelled():
                return
            if result is None:
                added.set_exception(_not_stored(error))
            else:
                added.set_result(result)

        self._store.add_spawned_soon(NewCall(call_id, function_id, ""), [row], True, done)
        return bool((await added).indexes)

    def _added(self, message: Spawn, rows: list[NewInput], added: Added) -> None:
        state = self._state(message.function_id)
        function = self._dispatch.functions.get(message.function_id)
        if function is None:
            return  # the app was stopped meanwhile; its inputs were failed there
        pool = function.pool
        if pool.backlog or state.loading or len(pool.queue) >= WINDOW:
            self._dispatch.scheduler.set_backlog(message.function_id, pool.backlog + len(added.indexes), _now())
            if state.loading:
                state.late += len(added.indexes)
            elif len(pool.queue) < REFILL // 2:  # no container asks for more: what had waited was cancelled
                self.refill(message.function_id)
            self._dispatch.run()
            return
        state.cursor = added.cursor
        call = self._call(message.call_id, message.function_id, function.app_id, message.parent_input_id)
        fresh = set(added.indexes)
        inputs = [self._hold(call, row.index, row.args, row.blob, row.method) for row in rows if row.index in fresh]
        self._dispatch.accept(function, inputs)

    def _hold(self, call: Call, index: int, args: bytes, blob: str, method: str) -> Held:
        held = Held(call, index, args, blob, method)
        call.inputs[index] = held
        self._live(held)
        return held

    def _live(self, held: Held) -> None:
        key = held.call.id, held.index
        if key not in self.live:
            self._state(held.call.function_id).live += 1
        self.live[key] = held

    def _call(self, call_id: str, function_id: str, app_id: str, parent_input_id: str = "") -> Call:
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = Call(call_id, function_id, app_id, "spawn", parent_input_id)
        return call

    def adopt(self, held: Held) -> Held:
        """A container of an earlier life of the server runs this spawned input; returns it as it is known here."""
        known = self._calls.setdefault(held.call.id, held.call)
        held.call = known
        held = known.inputs.setdefault(held.index, held)
        self._live(held)
        return held

    def hollow(self, held: Held) -> None:
        """An adopted input must run again: its arguments are on disk."""
        if held.call.kind == "spawn":
            self._dispatch.keep_task(asyncio.get_running_loop().create_task(self._fetch(held)))

    async def _fetch(self, held: Held) -> None:
        try:
            row = await self._store.input(held.call.id, held.index)
        except Exception as error:
            log.warning("%s could not be read, it will be tried again: %s", held.input_id, error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self.hollow, held)
            return
        if row is not None and held.fill(row.args, row.blob, row.method):
            self._dispatch.requeue([held])

    async def open(self) -> None:
        """After a start of the server: what waits on disk."""
        for function_id, count in (await self._store.count_pending()).items():
            self._state(function_id).pending = count

    async def settle_stopped(self, is_live: Callable[[str], Awaitable[bool]]) -> None:
        """After a start: what the server left half done when it died. `is_live`: is a function's app there?"""
        for call_id in await self._store.half_cancelled():
            await self.cancel(call_id, False)
        waiting = [function_id for function_id, state in self._functions.items() if state.pending]
        stopped = [function_id for function_id in waiting if not await is_live(function_id)]
        if stopped:
            await self.fail_functions(stopped, "the app was stopped")

    def function_added(self, function_id: str) -> None:
        """The function exists (again): its inputs on disk want containers."""
        state = self._functions.get(function_id)
        if state is not None and state.pending and not state.cursor:
            self._dispatch.scheduler.set_backlog(function_id, state.pending, _now())
            self.refill(function_id)

    def refill(self, function_id: str) -> None:
        """The queue in memory runs low: read on."""
        state = self._state(function_id)
        if not state.loading:
            state.loading = True
            task = asyncio.get_running_loop().create_task(self._load(function_id, state))
            self._dispatch.keep_task(task)

    async def _load(self, function_id: str, state: _Function) -> None:
        try:
            rows = await self._store.pending(function_id, state.cursor, REFILL)
        except Exception as error:  # a full disk is one for readers too
            log.warning("spawned inputs of %s could not be read, it will be tried again: %s", function_id, error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._load_again, function_id, state)
            return
        state.loading = False
        function = self._dispatch.functions.get(function_id)
        if function is None:
            return
        inputs = []
        for row in rows:
            state.cursor = row.cursor
            if row.call_id in self._cancelled or (row.call_id, row.index) in self._unstored:
                continue  # it was ended after it had been read
            if (row.call_id, row.index) in self.live:
                known = self.live[row.call_id, row.index]  # adopted from before a restart
                if known.fill(row.args, row.blob, row.method):
                    inputs.append(known)
                continue
            call = self._call(row.call_id, function_id, function.app_id)
            held = self._hold(call, row.index, row.args, row.blob, row.method)
            held.attempts = row.attempts
            inputs.append(held)
        late, state.late = state.late, 0
        backlog = late if len(rows) < REFILL else max(0, function.pool.backlog - len(rows))
        self._dispatch.scheduler.set_backlog(function_id, backlog, _now())
        if inputs:
            self._dispatch.accept(function, inputs)
        else:
            self._dispatch.run()
        if late or (len(rows) == REFILL and (backlog == 0 or not inputs)):
            self.refill(function_id)

    def _load_again(self, function_id: str, state: _Function) -> None:
        state.loading = False
        if function_id in self._dispatch.functions:
            self.refill(function_id)

    def _state(self, function_id: str) -> _Function:
        state = self._functions.get(function_id)
        if state is None:
            state = self._functions[function_id] = _Function()
        return state

    # -- out
    def deliver(self, held: Held, status: int, value: bytes, blob: str) -> None:
        """The final output of a spawned input: to disk, then to whoever waits for it."""
        call = held.call
        if status == Status.YIELDED or self.live.pop((call.id, held.index), None) is None:
            if blob:
                self._dispatch.forget_values([blob])
            return
        call.inputs.pop(held.index, None)
        if not call.inputs:
            self._calls.pop(call.id, None)
        if call.id in self._unwatched:
            self._unwatched.discard(call.id)
            if status in (Status.FAILURE, Status.TIMEOUT, Status.INIT_FAILURE):
                self.report(held, unpack_failure(value))
        container: Container | None = held.container
        container_id = container.id if container is not None else ""
        self._unstored.add((call.id, held.index))
        self._finished.append(Finished(call.id, held.index, status, value, blob, container_id))
        state = self._state(call.function_id)
        state.pending -= 1
        state.live -= 1
        if container is not None:
            self._finished_in[container] = None
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        rows, self._finished = self._finished, []
        containers, self._finished_in = self._finished_in, {}
        marks = [(container, container.frames) for container in containers]
        for container, frame in marks:
            container.undurable.append(frame)

        def done(error: Exception | None) -> None:
            if error is not None:  # a full disk, say
                log.error("%d results could not be stored, it will be tried again: %s", len(rows), error)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, store)
                return
            for container, frame in marks:
                container.undurable.remove(frame)
                self._dispatch.durable(container)
            for row in rows:
                self._unstored.discard((row.call_id, row.index))
                for waiter in self._waiting.pop((row.call_id, row.index), ()):
                    if not waiter.done():
                        waiter.set_result(row)

        def store() -> None:
            try:
                self._store.finish(rows, done)
            except Fault as fault:  # the server ends: whatever made them has them still
                log.info("%d results were not stored: %s", len(rows), fault)

        large = [row.blob for row in rows if row.blob]
        if large:
            self._dispatch.keep_task(asyncio.get_running_loop().create_task(self._secure_results(large, store)))
        else:
            store()

    async def _secure_results(self, blobs: list[str], store: Callable[[], None]) -> None:
        """What a stored output names is on the disk before the output is."""
        for blob in blobs:
            try:
                await asyncio.to_thread(self.secure_value, blob)
            except (Fault, OSError) as error:
                log.error("a large result is not safe: %s", error)  # whoever asks for it hears what is wrong
        store()

    def retried(self, held: Held, failed: str) -> None:
        """An attempt of an input has failed (its name): after a restart it has as many left as before."""
        if held.call.kind == "spawn":
            self._retried.append((held, failed))
            if len(self._retried) == 1:
                self._dispatch.keep_task(asyncio.get_running_loop().create_task(self._save_attempts()))

    async def _save_attempts(self) -> None:
        await asyncio.sleep(0)
        retried, self._retried = self._retried, []
        try:
            made = [(held.call.id, held.index, Attempts(held.attempts, failed)) for held, failed in retried]
            await self._store.set_attempts(made)
        except Fault as fault:  # they have more attempts after a restart
            log.warning("the attempts of %d inputs were not stored: %s", len(retried), fault)

    async def _await(self, connection: Connection, message: CallAwait) -> Outputs:
        key = (message.call_id, message.index)
        waiter: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(waiter)
        try:
            call = await self._store.call(message.call_id)
            if call is None:
                raise Fault(Code.NOT_FOUND, f"there is no spawned function call {message.call_id}")
            self._may_call(connection, call.function_id)
            output = await self._store.output(message.call_id, message.index)
            if (output is not None and output.expired) or (output is None and call.state == EXPIRED):
                raise Fault(
                    Code.EXPIRED, f"the result of {message.call_id} has expired: results are kept for seven days"
                )
            if output is not None:
                return self._outputs(call.function_id, message.index, output.status, output.value, output.blob)
            if call.state == CANCELLED:
                return self._outputs(call.function_id, message.index, Status.TERMINATED, _CANCELLED, "")
            if key not in self.live and await self._store.input(*key) is None:
                output = await self._store.output(*key)
                if output is None:
                    raise Fault(Code.NOT_FOUND, f"{message.call_id} has no input {message.index}")
                return self._outputs(call.function_id, message.index, output.status, output.value, output.blob)
            timeout = None if message.timeout < 0 else message.timeout
            wait = self.waits.begin(message.parent_input_id) if message.parent_input_id and timeout != 0 else None
            try:
                row = await asyncio.wait_for(waiter, timeout)
            except TimeoutError:
                raise Fault(
                    Code.TIMEOUT, f"{message.call_id} has no result yet (waited {message.timeout:g} s)"
                ) from None
            finally:
                if wait is not None:
                    wait.end()
            return self._outputs(call.function_id, message.index, row.status, row.value, row.blob)
        finally:
            waiters = self._waiting.get(key)
            if waiters is not None and waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[key]

    def _outputs(self, function_id: str, index: int, status: int, value: bytes, blob: str) -> Outputs:
        function = self._dispatch.functions.get(function_id)
        seq = self._log_seq(function.app_id) if function is not None else 0
        return Outputs([index], [status], [value], [blob] if blob else [], seq)

    async def cancel(self, call_id: str, terminate_containers: bool) -> None:
        """Inputs without a result become TERMINATED, on disk first."""
        self._cancelled[call_id] = None
        if len(self._cancelled) > CANCELLED_KEPT:
            del self._cancelled[next(iter(self._cancelled))]
        stored = await self._store.call(call_id)
        if stored is None:
            return

        def told(indexes: list[int]) -> None:
            call = self._calls.get(call_id)
            state = self._state(stored.function_id)
            for index in indexes:
                held = call.inputs.get(index) if call is not None else None
                if held is not None:
                    self._dispatch.finish(
                        held, Status.TERMINATED, _CANCELLED, interrupt=True, kill=terminate_containers
                    )
                elif (call_id, index) not in self._unstored:
                    state.pending -= 1
            self._dispatch.settled()

        await self._store.cancel(call_id, _CANCELLED, told)
        function = self._dispatch.functions.get(stored.function_id)
        if function is not None and function.pool.backlog:
            self.refill(stored.function_id)  # counts anew what is left
        for key in [key for key in self._waiting if key[0] == call_id]:
            for waiter in self._waiting.pop(key):
                if not waiter.done():
                    waiter.set_result(Finished(key[0], key[1], Status.TERMINATED, _CANCELLED))

    async def fail_functions(self, function_ids: list[str], reason: str) -> None:
        """Their app has ended: what has no result is TERMINATED."""
        value = pack_failure(CallFailure("cancelled", text=reason))
        wanted = set(function_ids)
        for held in [held for held in self.live.values() if held.call.function_id in wanted]:
            self._dispatch.finish(held, Status.TERMINATED, value, interrupt=True)
        if any(self._functions.get(function_id) for function_id in function_ids):
            await self._store.fail_function(function_ids, Status.TERMINATED, value)
        for function_id in function_ids:
            self._functions.pop(function_id, None)

    async def spawned_inputs(self, input_ids: list[str]) -> dict[str, Attempts | None]:
        """Those of these inputs that were spawned: are they without an output?"""
        return await self._store.without_output(input_ids)

    def in_memory(self, function_id: str) -> int:
        """Spawned inputs of a function that wait or run in memory: they have a limit of their own."""
        state = self._functions.get(function_id)
        return state.live if state is not None else 0

    def pending(self, function_id: str) -> int:
        """Spawned inputs of a function without an output."""
        state = self._functions.get(function_id)
        return state.pending if state is not None else 0

    def known_call(self, call_id: str) -> Call | None:
        """A spawned call, if it is in memory."""
        return self._calls.get(call_id)


_CANCELLED = pack_failure(
    CallFailure("cancelled", "modal.exception.InputCancellation", "the function call was cancelled")
)


def _not_stored(error: Exception | None) -> Fault:
    return error if isinstance(error, Fault) else Fault(Code.INTERNAL, f"the inputs could not be stored: {error}")


def _now() -> float:
    import time

    return time.monotonic()
