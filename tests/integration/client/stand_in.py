"""A small server that answers calls by running Python functions itself, and that can die and come back.

It stands where server, worker and containers are: what clients send is really unpickled, called and
pickled again, by the code that runners use.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from modal import _serialization
from modal._protocol import aio
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.app import AppAttach, AppEnded, AppLookup
from modal._protocol.messages.call import (
    BlobChunk,
    BlobForget,
    BlobGet,
    BlobPut,
    CallAwait,
    CallCancel,
    CallOpen,
    Inputs,
    Invoke,
    Outputs,
    Spawn,
    Status,
    pack_failure,
)
from modal._protocol.messages.log import LogBatch, LogEntry
from modal._protocol.messages.wire import Done, Hello, Welcome

Output = tuple[int, bytes, str]


class StandIn:
    """Functions by id; everything it was asked is kept for the tests to look at."""

    def __init__(self, directory: Path, *, share_values: bool = True) -> None:
        self.address = f"unix:{directory / 'server.sock'}"
        self.values = directory / "values"
        self.values.mkdir()
        self.share_values = share_values
        self.functions: dict[str, Callable[..., Any]] = {}
        self.outputs: dict[tuple[str, int], Output] = {}  # of finished inputs, kept over restarts when `remember`
        self.runs: Counter[tuple[str, int]] = Counter()
        self.opened: list[CallOpen] = []
        self.messages: list[int] = []  # number of inputs in each Inputs and Spawn
        self.largest_backlog = 0  # inputs of one call that had no output
        self.forgotten: list[str] = []
        self.asked = 0  # calls of one input
        self.cancelled: list[str] = []  # calls
        self.blobs: dict[str, bytes] = {}
        self.logs: dict[str, list[LogEntry]] = {}
        self.attached: list[AppAttach] = []
        self.connections: list[aio.Connection] = []
        self.hellos: list[Hello] = []
        self.die_after: int = -1  # inputs taken until all connections are cut
        self.hold = threading.Event()  # while it is clear, `invoke` answers nothing
        self.hold.set()
        self.refuse: Fault | None = None
        self.log_seq = 0
        self._news = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.AbstractServer | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    # -- life
    def start(self) -> None:
        self._run(self._start())

    async def _start(self) -> None:
        Path(self.address[5:]).unlink(missing_ok=True)
        self._server = await aio.serve(self.address, self._greet, self._handlers(), connected=self.connections.append)

    def die(self) -> None:
        """Stop listening and cut every connection."""
        self._run(self._die())

    async def _die(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Cut every connection, from the loop's thread."""
        for connection in self.connections:
            connection.abort()
        self.connections.clear()

    def cut_now(self) -> None:
        async def cut() -> None:
            self.cut()

        self._run(cut())

    def close(self) -> None:
        self.hold.set()
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        await self._die()
        for _ in range(3):
            await asyncio.sleep(0)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(200)

    def send(self, action: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(action)

    # -- answers
    def _greet(self, _connection: aio.Connection, hello: Hello) -> Welcome:
        self.hellos.append(hello)
        if self.refuse is not None:
            raise self.refuse
        return Welcome(1, environment="main", values_dir=str(self.values) if self.share_values else "")

    def _handlers(self) -> aio.Handlers:
        handlers = aio.Handlers()
        handlers.unary(Invoke)(self._invoke)
        handlers.stream(CallOpen)(self._open)
        handlers.unary(Spawn)(self._spawn)
        handlers.unary(CallAwait)(self._await)
        handlers.unary(CallCancel)(self._cancel)
        handlers.unary(AppLookup)(self._lookup)
        handlers.stream(BlobPut)(self._blob_put)
        handlers.stream(BlobGet)(self._blob_get)
        handlers.stream(AppAttach)(self._attach)
        handlers.note(BlobForget)(lambda _connection, message: self.forgotten.extend(message.blob_ids))
        return handlers

    async def _lookup(self, _connection: aio.Connection, message: AppLookup) -> Done:
        codes = {name: value for name, value in vars(Code).items() if name.isupper()}
        if message.name in codes.values():
            raise Fault(message.name, f"this is {message.name}")
        return Done()

    async def _invoke(self, _connection: aio.Connection, message: Invoke) -> Outputs:
        self.asked += 1
        if not self.hold.is_set():
            try:
                await asyncio.get_running_loop().run_in_executor(None, self.hold.wait)
            except asyncio.CancelledError:
                self.cancelled.append(message.call_id)
                raise
        self._count()
        status, value, blob = self._answer(message.call_id, 0, message.function_id, message.args, message.blob)
        return Outputs([0], [status], [value], [blob] if blob else [], self.log_seq)

    async def _open(self, connection: aio.Connection, message: CallOpen, stream: aio.Stream) -> None:
        self.opened.append(message)
        waiting: dict[int, tuple[bytes, str]] = {}
        try:
            async for item in stream:
                assert isinstance(item, Inputs)
                self.messages.append(len(item.indexes))
                blobs = item.blobs or [""] * len(item.indexes)
                for index, args, blob in zip(item.indexes, item.args, blobs, strict=True):
                    waiting[index] = (args, blob)
                self.largest_backlog = max(self.largest_backlog, len(waiting))
                if message.kind == "generator":
                    await self._generate(message, stream, *waiting.pop(0))
                else:
                    self._run_batch(message, stream, waiting)
                    await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(message.call_id)
            raise

    def order(self, indexes: list[int]) -> list[int]:
        """In which order the outputs of inputs that came together leave."""
        return indexes

    def _run_batch(self, message: CallOpen, stream: aio.Stream, waiting: dict[int, tuple[bytes, str]]) -> None:
        outputs = Outputs([], [], [], [], self.log_seq)
        for index in self.order(list(waiting)):
            args, blob = waiting.pop(index)
            status, value, blob = self._answer(message.call_id, index, message.function_id, args, blob)
            outputs.indexes.append(index)
            outputs.statuses.append(status)
            outputs.values.append(value)
            outputs.blobs.append(blob)
            if self._count():
                return  # what was computed does not arrive
        outputs.log_seq = self.log_seq
        stream.send_now(outputs)

    def _count(self) -> bool:
        if self.die_after > 0:
            self.die_after -= 1
            if self.die_after == 0:
                self.cut()
                return True
        return False

    async def _generate(self, message: CallOpen, stream: aio.Stream, args: bytes, blob: str) -> None:
        positional, named = _serialization.load_value(args, blob, str(self.values))
        try:
            for number, item in enumerate(self.functions[message.function_id](*positional, **named)):
                if number < message.yields_seen:
                    continue
                stream.send_now(Outputs([0], [Status.YIELDED], [_serialization.dumps(item)]))
                await asyncio.sleep(0)
                if self._count():
                    return
        except Exception as error:
            stream.send_now(Outputs([0], [Status.FAILURE], [pack_failure(_serialization.failure_of(error))]))
            return
        stream.send_now(Outputs([0], [Status.EXHAUSTED], [b""]))

    def _answer(self, call_id: str, index: int, function_id: str, args: bytes, blob: str) -> Output:
        known = self.outputs.get((call_id, index))
        if known is not None:
            return known
        self.runs[call_id, index] += 1
        function = self.functions.get(function_id)
        if function is None:
            raise Fault(Code.NOT_FOUND, f"there is no function {function_id}")
        try:
            if blob in self.blobs:
                positional, named = _serialization.load(self.blobs[blob])
            else:
                positional, named = _serialization.load_value(args, blob, str(self.values))
            result = function(*positional, **named)
            if self.share_values:
                dumped = _serialization.dump(result, str(self.values), "the result")
                output = (int(Status.SUCCESS), dumped.inline, dumped.blob)
            else:
                data = _serialization.dumps(result)
                blob_id = _serialization.new_value_id() if len(data) > _serialization.INLINE_LIMIT else ""
                if blob_id:
                    self.blobs[blob_id] = data
                output = (int(Status.SUCCESS), b"" if blob_id else data, blob_id)
        except BaseException as error:
            output = (int(Status.FAILURE), pack_failure(_serialization.failure_of(error)), "")
        self.outputs[call_id, index] = output
        return output

    async def _spawn(self, _connection: aio.Connection, message: Spawn) -> Done:
        self.messages.append(len(message.indexes))
        blobs = message.blobs or [""] * len(message.indexes)
        for index, args, blob in zip(message.indexes, message.args, blobs, strict=True):
            self._answer(message.call_id, index, message.function_id, args, blob)
        if self._count():
            await asyncio.sleep(0)
        return Done()

    async def _await(self, _connection: aio.Connection, message: CallAwait) -> Outputs:
        if message.call_id == "fc-EXPIRED":
            raise Fault(Code.EXPIRED, "fc-EXPIRED: the result was deleted after 7 days")
        output = self.outputs.get((message.call_id, message.index))
        if output is None:
            if message.timeout:
                await asyncio.sleep(min(message.timeout, 0.05))
            raise Fault(Code.TIMEOUT, f"{message.call_id} has no result yet")
        status, value, blob = output
        return Outputs([message.index], [status], [value], [blob])

    async def _cancel(self, _connection: aio.Connection, message: CallCancel) -> Done:
        self.cancelled.append(message.call_id)
        return Done()

    async def _blob_put(self, _connection: aio.Connection, message: BlobPut, stream: aio.Stream) -> Done:
        data = bytearray()
        async for item in stream:
            assert isinstance(item, BlobChunk)
            data += item.data
            if self._count():
                return Done()
        assert len(data) == message.size
        self.blobs[message.blob_id] = bytes(data)
        return Done()

    async def _blob_get(self, _connection: aio.Connection, message: BlobGet, stream: aio.Stream) -> None:
        data = self.blobs[message.blob_id]
        for start in range(0, len(data), 1 << 20):
            await stream.send(BlobChunk(data[start : start + (1 << 20)]))

    async def _attach(self, _connection: aio.Connection, message: AppAttach, stream: aio.Stream) -> AppEnded | None:
        self.attached.append(message)
        seen = message.from_seq
        while True:
            entries = self.logs.setdefault(message.app_id, [])
            new = [] if entries and entries[-1].text == "" else entries[seen:]
            if new:
                seen += len(new)
                await stream.send(LogBatch(message.app_id, new, seen))
            if entries and entries[-1].text == "":  # an empty text stands for the app's end
                rest = entries[seen:-1]
                if rest:
                    await stream.send(LogBatch(message.app_id, rest, len(entries) - 1))
                await stream.send(AppEnded(message.app_id))
                return None
            if not message.follow:
                return None
            await self._news.wait()

    def log(self, app_id: str, text: str) -> None:
        self.logs.setdefault(app_id, []).append(LogEntry(0.0, 1, text))
        self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
