"""Frames over asyncio: many requests and streams at once on one connection, in both directions.

Both sides are alike once they have greeted each other: each may send requests, open streams and
send notes; what the other side asks is answered by `Handlers`. A stream's receiver grants its
sender credit, so that a slow reader slows its own writer and nobody else on the connection.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections import deque
from typing import Any, Awaitable, Callable, Optional, TypeVar, Union, cast

from modal._protocol.address import Address, parse
from modal._protocol.errors import Code, ConnectionLost, Fault, ProtocolError, Unreachable, WireError
from modal._protocol.frames import VERSION_MAX, VERSION_MIN, Frame, FrameBuffer, Kind, pack
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Credit, Done, Failure, Hello, Welcome

M = TypeVar("M", bound=Message)
WINDOW = 1 << 20  # bytes that a stream's sender may be ahead of its receiver
CREDIT_STEP = WINDOW // 4  # bytes consumed before the receiver says so
MAX_OPEN = 4096  # streams that a peer may have open on one connection
GREETING_SECONDS = 10.0

UnaryHandler = Callable[["Connection", Any], Awaitable[Message]]
StreamHandler = Callable[["Connection", Any, "Stream"], Awaitable[Optional[Message]]]
FastHandler = Callable[["Connection", int, Any], None]
NoteHandler = Callable[["Connection", Any], None]


class Handlers:
    """What a side answers, by message class. One instance serves any number of connections."""

    def __init__(self) -> None:
        self.unaries: dict[int, UnaryHandler] = {}
        self.streams: dict[int, StreamHandler] = {}
        self.fasts: dict[int, FastHandler] = {}
        self.notes: dict[int, NoteHandler] = {}

    def unary(self, cls: type[Message]) -> Callable[[UnaryHandler], UnaryHandler]:
        """`async def handler(connection, message) -> Message`; raise Fault to refuse."""
        return _register(self.unaries, cls)

    def stream(self, cls: type[Message]) -> Callable[[StreamHandler], StreamHandler]:
        """`async def handler(connection, message, stream)`; a message returned is the final RESPONSE, None sends END."""
        return _register(self.streams, cls)

    def fast(self, cls: type[Message]) -> Callable[[FastHandler], FastHandler]:
        """`def handler(connection, stream_id, message)`: no task is made; answers later with `connection.respond`."""
        return _register(self.fasts, cls)

    def note(self, cls: type[Message]) -> Callable[[NoteHandler], NoteHandler]:
        """`def handler(connection, message)`."""
        return _register(self.notes, cls)


def _register(table: dict[int, Any], cls: type[Message]) -> Callable[[Any], Any]:
    def keep(handler: Any) -> Any:
        table[cls.TYPE] = handler
        return handler

    return keep


class Stream:
    """One open exchange. `raw`, when set, gets every ITEM frame undecoded and at once, without credit."""

    __slots__ = (
        "connection", "id", "raw", "on_end", "_queue", "_waiter", "_ended", "_error", "_credit", "_consumed",
        "_credit_waiter", "_queued", "_sent_end", "response",
    )  # fmt: skip

    def __init__(self, connection: Connection, id: int) -> None:
        self.connection = connection
        self.id = id
        self.raw: Callable[[Frame], None] | None = None
        self.on_end: Callable[[Exception | None], None] | None = None
        self.response: Message | None = None
        self._queue: deque[Frame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._credit = WINDOW
        self._consumed = 0
        self._queued = 0
        self._credit_waiter: asyncio.Future[None] | None = None
        self._sent_end = False

    # -- sending
    async def send(self, message: Message) -> None:
        """Send one item; waits while the receiver is behind by more than the window."""
        header, body = message.encode()
        while self._credit <= 0:
            self._check()
            self._credit_waiter = self.connection.loop.create_future()
            await self._credit_waiter
        self._credit -= len(header) + len(body)
        self.connection.write(pack(Kind.ITEM, message.TYPE, self.id, header, body))
        if self.connection.paused:
            await self.connection.drain()

    def send_now(self, message: Message) -> None:
        """Send one item without waiting: for peers that bound by other means what is under way."""
        header, body = message.encode()
        self.connection.write(pack(Kind.ITEM, message.TYPE, self.id, header, body))

    def send_frame(self, type: int, header: bytes, body: bytes) -> None:
        """Pass on an item as it came from elsewhere."""
        self.connection.write(pack(Kind.ITEM, type, self.id, header, body))

    def end(self) -> None:
        """No more items from this side."""
        if not self._sent_end:
            self._sent_end = True
            if not self.connection.closed:
                self.connection.write(pack(Kind.END, 0, self.id))
            self.connection.forget_if_over(self)

    def cancel(self) -> None:
        """The opener wants no more of it."""
        if not self.connection.closed:
            self.connection.write(pack(Kind.CANCEL, 0, self.id))
        self.connection.forget(self.id)
        self.finish(Fault(Code.CANCELLED, "cancelled by the caller"))

    # -- receiving
    async def receive(self) -> Message | None:
        """The next item, or None after END (a final RESPONSE is then in `response`). Raises Fault or WireError."""
        frame = await self.receive_frame()
        return None if frame is None else decode(frame.type, frame.header, frame.body)

    async def receive_frame(self) -> Frame | None:
        """As `receive`, undecoded."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = self.connection.loop.create_future()
            await self._waiter
        frame = self._queue.popleft()
        size = len(frame.header) + len(frame.body)
        self._queued -= size
        self._consumed += size
        if self._consumed >= CREDIT_STEP and not self._ended and not self.connection.closed:
            self.connection.write(pack(Kind.CREDIT, Credit.TYPE, self.id, *Credit(self._consumed).encode()))
            self._consumed = 0
        return frame

    def ready(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(self._queue) or self._ended

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def take_queued(self) -> list[Frame]:
        """The items that came before `raw` was set."""
        frames = list(self._queue)
        self._queue.clear()
        self._queued = 0
        return frames

    @property
    def is_ended(self) -> bool:
        """Whether the peer's side is over."""
        return self._ended

    async def wait_ended(self) -> None:
        """Return when the peer's side is over, however it ended."""
        while not self._ended:
            self._waiter = self.connection.loop.create_future()
            await self._waiter

    # -- called by the connection
    def take(self, frame: Frame) -> None:
        if self.raw is not None:
            self.raw(frame)
            return
        self._queue.append(frame)
        self._queued += len(frame.header) + len(frame.body)
        if self._queued > 16 * WINDOW:
            raise ProtocolError("the peer sends on a stream without waiting for credit")
        self._wake()

    def grant(self, size: int) -> None:
        self._credit += size
        if self._credit > 0 and self._credit_waiter is not None and not self._credit_waiter.done():
            self._credit_waiter.set_result(None)

    def finish(self, error: Exception | None) -> None:
        """The peer's side is over: no more items come."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._wake()
        if self._credit_waiter is not None and not self._credit_waiter.done() and error is not None:
            self._credit_waiter.set_result(None)
        if self.on_end is not None:
            self.on_end(error)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self.connection.closed:
            raise ConnectionLost("the connection was lost")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One side of an established (or greeting) connection. Use `connect` and `serve` to make them."""

    def __init__(self, handlers: Handlers, *, accepting: bool, greet: Greet | None = None) -> None:
        self.handlers = handlers
        self.loop = asyncio.get_running_loop()
        self.accepting = accepting
        self.peer: Hello | None = None  # what the connecting side said (accepting side only)
        self.welcome: Welcome | None = None
        self.context: Any = None  # whatever the owner wants to keep with the connection
        self.closed = False
        self.paused = False
        self.on_close: list[Callable[[Exception | None], None]] = []
        self.greeted: asyncio.Future[Message] = self.loop.create_future()
        self._greet = greet
        self._transport: asyncio.Transport | None = None
        self._buffer = FrameBuffer()
        self._next_stream = 2 if accepting else 1
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._streams: dict[int, Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._drained: asyncio.Future[None] | None = None
        self._out: list[bytes] = []
        self._flushing = False
        self._pongs: list[asyncio.Future[None]] = []
        self._error: Exception | None = None

    # -- transport
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        transport.set_write_buffer_limits(high=1 << 20)
        if self.accepting:
            self.loop.call_later(GREETING_SECONDS, self._greeting_late)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._buffer.feed(data):
                self._handle(frame)
        except ProtocolError as error:
            self._break(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed:
            return
        self.closed = True
        error = self._error or ConnectionLost(f"the connection was lost{f': {exc}' if exc else ''}")
        if not self.greeted.done():
            self.greeted.set_exception(error)
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()
        for stream in list(self._streams.values()):
            stream.finish(error)
        self._streams.clear()
        for task in list(self._tasks.values()):
            task.cancel()
        for pong in self._pongs:
            if not pong.done():
                pong.set_exception(error)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        for callback in self.on_close:
            callback(error)

    def pause_writing(self) -> None:
        self.paused = True
        self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        self.paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def drain(self) -> None:
        """Wait until what was written is (mostly) on its way. Raises ConnectionLost."""
        while self.paused and not self.closed:
            assert self._drained is not None
            await self._drained
        if self.closed:
            raise ConnectionLost("the connection was lost")

    def write(self, data: bytes) -> None:
        """Send bytes of whole frames. What is written during one turn of the loop leaves in one go."""
        if self.closed or self._transport is None:
            return
        self._out.append(data)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Hand over at once what this turn of the loop has written."""
        self._flushing = False
        if self._out and not self.closed and self._transport is not None:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def close(self) -> None:
        """End the connection; what was written before is still sent."""
        if self._transport is not None and not self.closed:
            self.flush()
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def extra(self, name: str) -> Any:
        """A property of the transport: "socket", "peername", "ssl_object"."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    # -- asking
    async def request(self, message: Message, expect: type[M]) -> M:
        """Ask and wait for the answer. Raises Fault as the peer said it, WireError when the connection fails."""
        if self.closed:
            raise ConnectionLost("the connection was lost")
        stream_id = self._new_id()
        waiter: asyncio.Future[Message] = self.loop.create_future()
        self._waiting[stream_id] = waiter
        header, body = message.encode()
        self.write(pack(Kind.REQUEST, message.TYPE, stream_id, header, body))
        try:
            if self.paused:
                await self.drain()
            answer = await waiter
        except asyncio.CancelledError:
            self.write(pack(Kind.CANCEL, 0, stream_id))
            raise
        finally:
            self._waiting.pop(stream_id, None)
        if not isinstance(answer, expect):
            raise ProtocolError(f"{type(message).__name__} was answered with {type(answer).__name__}")
        return answer

    def open(self, message: Message) -> Stream:
        """Ask for something that comes (or goes) in many items."""
        if self.closed:
            raise ConnectionLost("the connection was lost")
        stream = Stream(self, self._new_id())
        self._streams[stream.id] = stream
        header, body = message.encode()
        self.write(pack(Kind.REQUEST, message.TYPE, stream.id, header, body))
        return stream

    def note(self, message: Message) -> None:
        """Tell something that needs no answer."""
        header, body = message.encode()
        self.write(pack(Kind.NOTE, message.TYPE, 0, header, body))

    async def ping(self) -> None:
        """Return when the peer has answered. Raises ConnectionLost."""
        if self.closed:
            raise ConnectionLost("the connection was lost")
        pong: asyncio.Future[None] = self.loop.create_future()
        self._pongs.append(pong)
        self.write(pack(Kind.PING, 0, 0))
        await pong

    # -- answering
    def respond(self, stream_id: int, message: Message) -> None:
        """The answer to a request."""
        header, body = message.encode()
        self.write(pack(Kind.RESPONSE, message.TYPE, stream_id, header, body))

    def fail(self, stream_id: int, fault: Fault) -> None:
        """The refusal of a request, or the failure of a stream."""
        self.write(pack(Kind.FAULT, Failure.TYPE, stream_id, *Failure(fault.code, fault.text[:65536]).encode()))

    def forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def forget_if_over(self, stream: Stream) -> None:
        if stream._ended and stream._sent_end:
            self._streams.pop(stream.id, None)

    # -- frames
    def _new_id(self) -> int:
        stream_id = self._next_stream
        self._next_stream = stream_id + 2 if stream_id < 0xFFFFFF00 else 2 - (stream_id & 1)
        return stream_id

    def _handle(self, frame: Frame) -> None:
        kind = frame.kind
        if not self.greeted.done():
            self._handle_greeting(frame)
            return
        if kind == Kind.REQUEST:
            self._handle_request(frame)
        elif kind == Kind.RESPONSE:
            waiter = self._waiting.pop(frame.stream, None)
            if waiter is not None:
                if not waiter.done():
                    waiter.set_result(decode(frame.type, frame.header, frame.body))
                return
            stream = self._streams.pop(frame.stream, None)
            if stream is not None:
                stream.response = decode(frame.type, frame.header, frame.body)
                stream.finish(None)
        elif kind == Kind.ITEM:
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.take(frame)
        elif kind == Kind.END:
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.finish(None)
                self.forget_if_over(stream)
        elif kind == Kind.NOTE:
            handler = self.handlers.notes.get(frame.type)
            if handler is not None:
                handler(self, decode(frame.type, frame.header, frame.body))
        elif kind == Kind.FAULT:
            self._handle_fault(frame)
        elif kind == Kind.CREDIT:
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.grant(Credit.decode(frame.header, frame.body).size)
        elif kind == Kind.CANCEL:
            task = self._tasks.get(frame.stream)
            if task is not None:
                task.cancel()
            stream = self._streams.pop(frame.stream, None)
            if stream is not None:
                stream.finish(Fault(Code.CANCELLED, "cancelled by the peer"))
        elif kind == Kind.PING:
            self.write(pack(Kind.PONG, 0, 0))
        elif kind == Kind.PONG:
            if self._pongs:
                pong = self._pongs.pop(0)
                if not pong.done():
                    pong.set_result(None)
        else:
            raise ProtocolError(f"a frame of kind {kind} has no place here")

    def _handle_fault(self, frame: Frame) -> None:
        failure = Failure.decode(frame.header, frame.body)
        fault = Fault(failure.code, failure.text)
        waiter = self._waiting.pop(frame.stream, None)
        if waiter is not None:
            if not waiter.done():
                waiter.set_exception(fault)
            return
        stream = self._streams.pop(frame.stream, None)
        if stream is not None:
            stream.finish(fault)

    def _handle_request(self, frame: Frame) -> None:
        fast = self.handlers.fasts.get(frame.type)
        if fast is not None:
            message = decode(frame.type, frame.header, frame.body)
            try:
                fast(self, frame.stream, message)
            except Fault as fault:
                self.fail(frame.stream, fault)
            return
        if frame.stream in self._tasks or frame.stream in self._streams or frame.stream % 2 == self._next_stream % 2:
            raise ProtocolError(f"stream {frame.stream} cannot be opened")
        if len(self._tasks) >= MAX_OPEN:
            raise ProtocolError(f"more than {MAX_OPEN} requests at once on one connection")
        unary = self.handlers.unaries.get(frame.type)
        streaming = self.handlers.streams.get(frame.type)
        if unary is None and streaming is None:
            name = Message.registry[frame.type].__name__ if frame.type in Message.registry else f"type {frame.type}"
            self.fail(frame.stream, Fault(Code.INVALID, f"this peer does not answer {name} here"))
            return
        message = decode(frame.type, frame.header, frame.body)
        stream = None
        if streaming is not None:
            stream = self._streams[frame.stream] = Stream(self, frame.stream)
        task = self.loop.create_task(self._answer(frame.stream, message, unary, streaming, stream))
        self._tasks[frame.stream] = task

    async def _answer(
        self,
        stream_id: int,
        message: Message,
        unary: UnaryHandler | None,
        streaming: StreamHandler | None,
        stream: Stream | None,
    ) -> None:
        try:
            if unary is not None:
                answer: Message | None = await unary(self, message)
            else:
                assert streaming is not None and stream is not None
                answer = await streaming(self, message, stream)
            if answer is not None:
                self.respond(stream_id, answer)
            elif stream is not None and not stream._sent_end:
                stream.end()
        except Fault as fault:
            self.fail(stream_id, fault)
        except asyncio.CancelledError:
            if not self.closed:
                self.fail(stream_id, Fault(Code.CANCELLED, "the request was given up"))
        except WireError:
            pass
        except Exception as error:  # a defect of ours: the peer must hear of it, the connection goes on
            self.loop.call_exception_handler({"message": f"{type(message).__name__} failed", "exception": error})
            self.fail(stream_id, Fault(Code.INTERNAL, f"{type(message).__name__} failed: {type(error).__name__}: {error}"))
        finally:
            self._tasks.pop(stream_id, None)
            if stream is not None and not (stream.raw is not None and stream_id in self._streams and answer_is_open(stream)):
                self._streams.pop(stream_id, None)

    # -- greeting
    def _handle_greeting(self, frame: Frame) -> None:
        if self.accepting:
            if frame.kind != Kind.HELLO:
                raise ProtocolError("the peer did not say hello")
            hello = Hello.decode(frame.header, frame.body)
            version = min(hello.version_max, VERSION_MAX)
            if version < max(hello.version_min, VERSION_MIN):
                text = (
                    f"this side speaks versions {VERSION_MIN} to {VERSION_MAX} of the protocol, the other "
                    f"{hello.version_min} to {hello.version_max}: install the same version of intermodal on both"
                )
                self._refuse(Fault(Code.VERSION, text))
                return
            try:
                welcome = self._greet(self, hello) if self._greet is not None else Welcome(version)
            except Fault as fault:
                self._refuse(fault)
                return
            self.peer = hello
            if isinstance(welcome, Welcome):
                welcome.version = version
            self.write(pack(Kind.WELCOME, welcome.TYPE, 0, *welcome.encode()))
            self.greeted.set_result(hello)
        elif frame.kind == Kind.WELCOME:
            answer = decode(frame.type, frame.header, frame.body)
            if isinstance(answer, Welcome):
                self.welcome = answer
            self.greeted.set_result(answer)
        elif frame.kind == Kind.FAULT:
            failure = Failure.decode(frame.header, frame.body)
            self._error = ConnectionLost(failure.text)
            self.greeted.set_exception(Fault(failure.code, failure.text))
            self.close()
        else:
            raise ProtocolError("the peer did not greet")

    def _refuse(self, fault: Fault) -> None:
        self._error = ProtocolError(fault.text)
        self.fail(0, fault)
        self.close()

    def _greeting_late(self) -> None:
        if not self.greeted.done() and not self.closed:
            self._break(ProtocolError("the peer did not say hello in time"))

    def _break(self, error: ProtocolError) -> None:
        self._error = error
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()
        self.fail(0, Fault(Code.INVALID, str(error)))
        self.close()


def answer_is_open(stream: Stream) -> bool:
    """Whether a stream that is served raw goes on after its handler returned."""
    return not stream._sent_end and not stream._ended


Greet = Callable[[Connection, Hello], Union[Welcome, Message]]


async def connect(
    address: Address | str,
    hello: Hello,
    handlers: Handlers | None = None,
    *,
    ssl: ssl_module.SSLContext | None = None,
    timeout: float = GREETING_SECONDS,
) -> Connection:
    """Connect and greet. Raises Unreachable, Fault (refused: version, token) or ProtocolError."""
    where = parse(address) if isinstance(address, str) else address
    loop = asyncio.get_running_loop()
    table = handlers or Handlers()

    def make() -> Connection:
        return Connection(table, accepting=False)

    try:
        if where.scheme == "unix":
            _, connection = await asyncio.wait_for(loop.create_unix_connection(make, where.host), timeout)
        else:
            context = (ssl or ssl_module.create_default_context()) if where.scheme == "tls" else None
            _, connection = await asyncio.wait_for(
                loop.create_connection(make, where.host, where.port, ssl=context), timeout
            )
    except (OSError, asyncio.TimeoutError) as error:
        raise Unreachable(f"nobody answers at {where}: {error or 'timed out'}") from None
    connection.write(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))
    try:
        await asyncio.wait_for(asyncio.shield(connection.greeted), timeout)
    except asyncio.TimeoutError:
        connection.abort()
        raise Unreachable(f"{where} does not greet: is it an Intermodal server?") from None
    return connection


async def serve(
    address: Address | str,
    greet: Greet,
    handlers: Handlers,
    *,
    ssl: ssl_module.SSLContext | None = None,
    connected: Callable[[Connection], None] | None = None,
) -> asyncio.AbstractServer:
    """Accept connections. `greet(connection, hello)` returns the WELCOME or raises Fault to refuse."""
    where = parse(address) if isinstance(address, str) else address
    loop = asyncio.get_running_loop()

    def make() -> Connection:
        connection = Connection(handlers, accepting=True, greet=greet)
        connection.greeted.add_done_callback(
            lambda done: connected(connection) if connected and not done.cancelled() and not done.exception() else None
        )
        return connection

    if where.scheme == "unix":
        return await loop.create_unix_server(make, where.host, backlog=1024)
    return await loop.create_server(make, where.host, where.port, ssl=ssl, backlog=1024)


__all__ = ["Connection", "Done", "Handlers", "Stream", "connect", "serve"]
