"""Frames over asyncio: many requests and streams at once on one connection, in both directions.

Both sides are alike once they have greeted each other: each may send requests, open streams and
send notes; what the other side asks is answered by `Handlers`. A stream's receiver grants its
sender credit, so that a slow reader slows its own writer and nobody else on the connection.

Whatever the peer sends, memory stays bounded and nothing escapes to the event loop: what is no
frame or breaks the rules ends the connection; what is wrong with one request or stream ends that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from modal._protocol.address import Address, parse, unreachable
from modal._protocol.errors import Code, ConnectionLost, Fault, ProtocolError, Unreachable, WireError
from modal._protocol.frames import PREFIX, VERSION_MAX, VERSION_MIN, Frame, Kind, pack
from modal._protocol.handlers import Handlers, StreamHandler, UnaryHandler
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Credit, Done, Failure, Hello, Welcome
from modal._protocol.stream import WINDOW, Stream
from modal._protocol.transport import GREETING_SECONDS, FrameTransport, HttpFactory

if TYPE_CHECKING:
    import ssl as ssl_module

M = TypeVar("M", bound=Message)
LAST_STREAM = 0xFFFFFF00  # then numbers begin again
MAX_STREAMS = 4096  # streams and coroutine requests that a peer may have open on one connection
MAX_FAST = 1 << 16  # requests of a peer that wait for `respond`
MAX_HELD = 512 << 20  # bytes that a peer may have lying here, neither received nor answered
MAX_STREAM_HELD = 16 << 20  # of them on one stream that the peer opened

_ITEM = int(Kind.ITEM)
_REQUEST = int(Kind.REQUEST)
_RESPONSE = int(Kind.RESPONSE)
_PONG = PREFIX.pack(Kind.PONG, 0, 0, 0, 0, 0)


class Connection(FrameTransport):
    """One side of an established (or greeting) connection. Use `connect` and `serve` to make them."""

    def __init__(
        self,
        handlers: Handlers,
        *,
        accepting: bool,
        greet: Optional[Greet] = None,
        http: Optional[HttpFactory] = None,
    ) -> None:
        super().__init__(accepting=accepting, http=http)
        self.handlers = handlers
        self.peer: Optional[Hello] = None  # what the connecting side said (accepting side only)
        self.welcome: Optional[Welcome] = None
        self.context: Any = None  # whatever the owner wants to keep with the connection
        self.held = 0  # bytes that came and were neither received nor answered
        self.direct = False  # what the peer's socket has been read of has arrived (accepting side only)
        self.on_cancel: Optional[Callable[[int], None]] = None  # the peer gave up this request of a fast handler
        self.greeted: asyncio.Future[Message] = self.loop.create_future()
        self._greet = greet
        self._next_stream = 2 if accepting else 1
        self._wrapped = False
        self._parity = self._next_stream & 1  # of the streams that this side opens
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._streams: dict[int, Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._fast: set[int] = set()
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._take = self._take_greeting

    def settle(self, error: Exception) -> None:
        """Tell everybody who waits that nothing will come."""
        if not self.greeted.done():
            self.greeted.set_exception(error)
            self.greeted.exception()  # nobody has to look at it
        waiting, self._waiting = self._waiting, {}
        streams, self._streams = self._streams, {}
        waiters: list[asyncio.Future[Any]] = [*waiting.values(), *self._pongs]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()
        for stream in streams.values():
            stream.finish(error)
        for task in list(self._tasks.values()):
            task.cancel()
        self._fast.clear()

    def farewell(self, error: Exception) -> None:
        self.fail(0, Fault(Code.INVALID, str(error)))

    # -- asking
    async def request(self, message: Message, expect: type[M]) -> M:
        """Ask and wait for the answer. Raises Fault as the peer said it, WireError when the connection fails."""
        header, body = message.encode()
        if self.closed:
            raise self.gone()
        stream_id = self._new_id()
        waiter: asyncio.Future[Message] = self.loop.create_future()
        self._waiting[stream_id] = waiter
        try:
            self.send_frame(_REQUEST, message.TYPE, stream_id, header, body)
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
        header, body = message.encode()
        if self.closed:
            raise self.gone()
        stream_id = self._new_id()
        stream = self._streams[stream_id] = Stream(self, stream_id)
        self.send_frame(_REQUEST, message.TYPE, stream_id, header, body)
        return stream

    def adopt(self, stream_id: int) -> Stream:
        """A stream that both sides know of without a request."""
        stream = self._streams[stream_id] = Stream(self, stream_id)
        return stream

    def note(self, message: Message) -> None:
        """Tell something that needs no answer."""
        self.send_frame(Kind.NOTE, message.TYPE, 0, *message.encode())

    async def ping(self) -> None:
        """Return when the peer has answered. Raises ConnectionLost."""
        if self.closed:
            raise self.gone()
        pong: asyncio.Future[None] = self.loop.create_future()
        self._pongs.append(pong)
        self.write(pack(Kind.PING, 0, 0))
        await pong

    # -- answering
    def respond(self, stream_id: int, message: Message) -> None:
        """The answer to a request."""
        self._fast.discard(stream_id)
        header, body = message.encode()
        self.send_frame(Kind.RESPONSE, message.TYPE, stream_id, header, body)

    def fail(self, stream_id: int, fault: Fault) -> None:
        """The refusal of a request, or the failure of a stream."""
        self._fast.discard(stream_id)
        self.write(pack(Kind.FAULT, Failure.TYPE, stream_id, *Failure(fault.code, fault.text[:65536]).encode()))
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.drop()
            stream._sent_end = True
            stream.finish(fault)

    def fail_stream(self, stream: Stream, error: Exception) -> None:
        """A stream's consumer raised: the stream ends, the connection goes on."""
        if isinstance(error, Fault):
            self.fail(stream.id, error)
        elif isinstance(error, ProtocolError):
            self.fail(stream.id, Fault(Code.INVALID, str(error)))
        else:
            self.report("the consumer of a stream failed", error)
            self.fail(stream.id, Fault(Code.INTERNAL, f"{type(error).__name__}: {error}"))

    def forget(self, stream_id: int) -> None:
        """The stream is over: what still comes for it is ignored."""
        self._streams.pop(stream_id, None)

    def hold(self, size: int, on_stream: int = 0) -> None:
        """So many bytes more wait here. Raises ProtocolError where the peer has passed its bounds."""
        if self.held + size > MAX_HELD or (self.accepting and on_stream > MAX_STREAM_HELD):
            raise ProtocolError("the peer sends without waiting for credit")
        self.held += size

    def guard(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Call what belongs to others: its failure is reported and stops nothing here."""
        try:
            callback(argument)
        except Exception as error:
            self.report("a callback failed", error)

    # -- frames
    def _new_id(self) -> int:
        stream_id = self._next_stream
        self._next_stream = stream_id + 2
        return stream_id if stream_id < LAST_STREAM and not self._wrapped else self._free_id(stream_id)

    def _free_id(self, stream_id: int) -> int:
        """The numbers have come round: leave out those that are still in use."""
        self._wrapped = True
        while True:
            if stream_id >= LAST_STREAM:
                stream_id = 2 - self._parity
            if stream_id not in self._streams and stream_id not in self._waiting:
                break
            stream_id += 2
        self._next_stream = stream_id + 2
        return stream_id

    def _take_frame(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == _ITEM:
            stream = self._streams.get(frame.stream)
            if stream is not None:
                stream.take(frame)
        elif kind == _REQUEST:
            self._take_request(frame)
        elif kind == _RESPONSE:
            self._take_response(frame)
        else:
            take = _TAKERS.get(kind)
            if take is None:
                raise ProtocolError(f"a frame of kind {kind} has no place here")
            take(self, frame)

    def _take_response(self, frame: Frame) -> None:
        waiter = self._waiting.pop(frame.stream, None)
        if waiter is not None:
            if not waiter.done():
                try:
                    waiter.set_result(decode(frame.type, frame.header, frame.body))
                except ProtocolError as error:
                    waiter.set_exception(error)
            return
        if frame.stream & 1 != self._parity:
            raise ProtocolError(f"an answer on stream {frame.stream}, which is not ours")
        stream = self._streams.pop(frame.stream, None)
        if stream is not None:
            stream._sent_end = True
            try:
                stream.response = decode(frame.type, frame.header, frame.body)
            except ProtocolError as error:
                stream.finish(error)
            else:
                stream.finish(None)

    def _take_end(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None:
            return
        if frame.stream & 1 == self._parity and stream.raw is None:
            stream.end()  # the answering side has said all: so have we
        stream.finish(None)
        if stream.is_over:
            self._streams.pop(frame.stream, None)

    def _take_note(self, frame: Frame) -> None:
        handler = self.handlers.notes.get(frame.type)
        if handler is not None:
            message = decode(frame.type, frame.header, frame.body)
            try:
                handler(self, message)
            except Exception as error:
                self.report(f"{type(message).__name__} failed", error)

    def _take_fault(self, frame: Frame) -> None:
        failure = Failure.decode(frame.header, frame.body)
        if not frame.stream:
            self._error = ConnectionLost(f"the other side ended the connection: {failure.text}")
            self.close()
            return
        fault = Fault(failure.code, failure.text)
        waiter = self._waiting.pop(frame.stream, None)
        if waiter is not None:
            if not waiter.done():
                waiter.set_exception(fault)
            return
        stream = self._streams.pop(frame.stream, None)
        if stream is not None:
            stream.finish(fault)

    def _take_credit(self, frame: Frame) -> None:
        credit = Credit.decode(frame.header, frame.body)
        stream = self._streams.get(frame.stream)
        if stream is not None:
            stream.grant(credit.size)

    def _take_cancel(self, frame: Frame) -> None:
        stream_id = frame.stream
        if stream_id & 1 == self._parity or not stream_id:
            raise ProtocolError(f"a cancellation of stream {stream_id}, which is not the peer's")
        if stream_id in self._fast:
            self._fast.discard(stream_id)
            if self.on_cancel is not None:
                self.guard(self.on_cancel, stream_id)
            return
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.drop()
            stream.finish(Fault(Code.CANCELLED, "cancelled by the peer"))
        task = self._tasks.get(stream_id)
        if task is not None:
            task.cancel()

    def _take_ping(self, frame: Frame) -> None:
        self.count_answer()
        self.write(_PONG)

    def _take_pong(self, frame: Frame) -> None:
        if self._pongs:
            pong = self._pongs.popleft()
            if not pong.done():
                pong.set_result(None)

    # -- requests of the peer
    def _take_request(self, frame: Frame) -> None:
        _kind, type_, stream_id, header, body = frame
        if (
            stream_id & 1 == self._parity
            or not stream_id
            or stream_id in self._fast
            or stream_id in self._tasks
            or stream_id in self._streams
        ):
            raise ProtocolError(f"stream {stream_id} cannot be opened")
        handlers = self.handlers
        fast = handlers.fasts.get(type_)
        unary = streaming = None
        if fast is None:
            unary = handlers.unaries.get(type_)
            streaming = handlers.streams.get(type_)
        try:
            if fast is None and unary is None and streaming is None:
                name = Message.registry[type_].__name__ if type_ in Message.registry else f"message type {type_}"
                raise Fault(Code.INVALID, f"this peer does not answer {name} here")
            message = decode(type_, header, body)
            if fast is not None:
                self._fast.add(stream_id)
                if len(self._fast) > MAX_FAST:
                    raise Fault(Code.EXHAUSTED, f"more than {MAX_FAST} requests at once on one connection")
                fast(self, stream_id, message)
                return
            if len(self._tasks) >= MAX_STREAMS:
                raise Fault(Code.EXHAUSTED, f"more than {MAX_STREAMS} requests at once on one connection")
        except Fault as fault:
            self.count_answer()
            self.fail(stream_id, fault)
            return
        except ProtocolError as error:  # the frames are in order, only what this one holds is not
            self.count_answer()
            self.fail(stream_id, Fault(Code.INVALID, str(error)))
            return
        except Exception as error:  # a defect of ours: the peer must hear of it, the connection goes on
            self.report(f"{type(message).__name__} failed", error)
            self.fail(stream_id, _internal(message, error))
            return
        size = len(header) + len(body)
        self.hold(size)
        stream = None
        if streaming is not None:
            stream = self._streams[stream_id] = Stream(self, stream_id)
        task = self.loop.create_task(self._answer(stream_id, message, unary, streaming, stream))
        self._tasks[stream_id] = task
        task.add_done_callback(lambda _task: self._answered(stream_id, size))  # also when it never began to run

    def _answered(self, stream_id: int, size: int) -> None:
        self.held -= size
        self._tasks.pop(stream_id, None)

    async def _answer(
        self,
        stream_id: int,
        message: Message,
        unary: Optional[UnaryHandler],
        streaming: Optional[StreamHandler],
        stream: Optional[Stream],
    ) -> None:
        try:
            if stream is None:
                assert unary is not None
                self.respond(stream_id, await unary(self, message))
            else:
                assert streaming is not None
                answer = await streaming(self, message, stream)
                self._handler_returned(stream, answer)
        except asyncio.CancelledError:
            self._refuse_open(stream_id, stream, Fault(Code.CANCELLED, "the request was given up"))
        except Fault as fault:
            self._refuse_open(stream_id, stream, fault)
        except ProtocolError as error:
            self._refuse_open(stream_id, stream, Fault(Code.INVALID, str(error)))
        except WireError:  # this connection is gone, or one that the handler needed
            self._refuse_open(stream_id, stream, Fault(Code.INTERNAL, "a connection behind this one was lost"))
        except Exception as error:  # a defect of ours: the peer must hear of it, the connection goes on
            self.report(f"{type(message).__name__} failed", error)
            self._refuse_open(stream_id, stream, _internal(message, error))

    def _handler_returned(self, stream: Stream, answer: Optional[Message]) -> None:
        if answer is not None:
            if not stream._sent_end:
                stream._sent_end = True
                self.respond(stream.id, answer)
            self._dismiss(stream)
        elif stream.raw is None:
            stream.end()
            self._dismiss(stream)
        elif stream.is_ended:
            stream.end()
        # else: a raw stream stays open until both sides have ended it

    def _refuse_open(self, stream_id: int, stream: Optional[Stream], fault: Fault) -> None:
        """Tell the peer why, unless the exchange is over for it already."""
        if stream is None:
            self.fail(stream_id, fault)
            return
        if not stream._sent_end:
            stream._sent_end = True
            self.fail(stream_id, fault)
        self._dismiss(stream)

    def _dismiss(self, stream: Stream) -> None:
        """Nobody receives here any more: what still comes is ignored."""
        if self._streams.get(stream.id) is stream:
            del self._streams[stream.id]
        stream.drop()
        stream.finish(None)

    # -- greeting
    def _take_greeting(self, frame: Frame) -> None:
        if self.accepting:
            self._take_hello(frame)
        elif frame.kind == Kind.WELCOME:
            answer = decode(frame.type, frame.header, frame.body)
            if isinstance(answer, Welcome):
                self.welcome = answer
            self._begin(answer)
        elif frame.kind == Kind.FAULT:
            failure = Failure.decode(frame.header, frame.body)
            self._error = ConnectionLost(failure.text)
            self.greeted.set_exception(Fault(failure.code, failure.text))
            self.close()
        else:
            raise ProtocolError("the peer did not greet")

    def _take_hello(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO or frame.type != Hello.TYPE:
            raise ProtocolError("the peer did not say hello")
        hello = Hello.decode(frame.header, frame.body)
        version = min(hello.version_max, VERSION_MAX)
        try:
            if version < max(hello.version_min, VERSION_MIN):
                raise Fault(
                    Code.VERSION,
                    f"this side speaks versions {VERSION_MIN} to {VERSION_MAX} of the protocol, the other "
                    f"{hello.version_min} to {hello.version_max}: install the same version of intermodal on both",
                )
            welcome = self._greet(self, hello) if self._greet is not None else Welcome(version)
        except Fault as fault:
            self._error = ProtocolError(fault.text)
            self.fail(0, fault)
            self.close()
            return
        self.peer = hello
        if isinstance(welcome, Welcome):
            welcome.version = version
        self.write(pack(Kind.WELCOME, welcome.TYPE, 0, *welcome.encode()))
        self._buffer.greeted()
        self._begin(hello)

    def _begin(self, said: Message) -> None:
        self._take = self._take_frame
        self._stop_timer()
        if not self.greeted.done():
            self.greeted.set_result(said)


def _internal(message: Message, error: Exception) -> Fault:
    return Fault(Code.INTERNAL, f"{type(message).__name__} failed: {type(error).__name__}: {error}")


_TAKERS: dict[int, Callable[[Connection, Frame], None]] = {
    Kind.END: Connection._take_end,
    Kind.NOTE: Connection._take_note,
    Kind.FAULT: Connection._take_fault,
    Kind.CREDIT: Connection._take_credit,
    Kind.CANCEL: Connection._take_cancel,
    Kind.PING: Connection._take_ping,
    Kind.PONG: Connection._take_pong,
}


Greet = Callable[[Connection, Hello], Union[Welcome, Message]]


async def connect(
    address: Union[Address, str],
    hello: Hello,
    handlers: Optional[Handlers] = None,
    *,
    ssl: Optional[ssl_module.SSLContext] = None,
    timeout: float = GREETING_SECONDS,
) -> Connection:
    """Connect and greet. Raises Unreachable, Fault (refused: version, token), ConnectionLost or ProtocolError."""
    where = parse(address) if isinstance(address, str) else address
    loop = asyncio.get_running_loop()
    table = handlers or Handlers()
    greeting = pack(Kind.HELLO, hello.TYPE, 0, *hello.encode())

    def make() -> Connection:
        return Connection(table, accepting=False)

    if where.scheme == "tls" and ssl is None:
        from modal._protocol.tls import client_context

        ssl = client_context()
    try:
        if where.scheme == "unix":
            _, connection = await asyncio.wait_for(loop.create_unix_connection(make, where.host), timeout)
        else:
            context = ssl if where.scheme == "tls" else None
            _, connection = await asyncio.wait_for(
                loop.create_connection(make, where.host, where.port, ssl=context), timeout
            )
    except (OSError, asyncio.TimeoutError) as error:  # ssl.SSLError is an OSError
        raise unreachable(where, error) from None
    if where.scheme == "unix":
        connection.write(greeting)
    else:
        connection.ask_upgrade(where, greeting)
    try:
        await asyncio.wait_for(asyncio.shield(connection.greeted), timeout)
    except asyncio.TimeoutError:
        connection.abort()
        raise Unreachable(f"{where} does not greet: is it an Intermodal server?") from None
    except BaseException:
        connection.abort()
        raise
    if where.scheme != "unix":
        connection.keep_alive()
    return connection


def acceptor(
    greet: Greet,
    handlers: Handlers,
    *,
    connected: Optional[Callable[[Connection], None]] = None,
    http: Optional[HttpFactory] = None,
) -> Callable[[], Connection]:
    """What makes the protocol of each connection that is accepted: see `serve`."""

    def make() -> Connection:
        connection = Connection(handlers, accepting=True, greet=greet, http=http)
        if connected is not None:
            tell = connected
            connection.greeted.add_done_callback(lambda done: None if done.exception() else tell(connection))
        return connection

    return make


async def serve(
    address: Union[Address, str],
    greet: Greet,
    handlers: Handlers,
    *,
    ssl: Optional[ssl_module.SSLContext] = None,
    connected: Optional[Callable[[Connection], None]] = None,
    http: Optional[HttpFactory] = None,
) -> asyncio.AbstractServer:
    """Accept connections for as long as the returned server is referenced.

    `greet(connection, hello)` returns the WELCOME or raises Fault to refuse. On TCP and TLS, `http()` makes
    the protocol that takes a connection over whose first bytes are an HTTP request and no upgrade to frames.
    """
    where = parse(address) if isinstance(address, str) else address
    if where.scheme == "tls" and ssl is None:
        raise ValueError(f"{where} needs a certificate: pass `ssl`")
    loop = asyncio.get_running_loop()
    make = acceptor(greet, handlers, connected=connected, http=http)
    if where.scheme == "unix":
        return await loop.create_unix_server(make, where.host, backlog=1024)
    context = ssl if where.scheme == "tls" else None
    return await loop.create_server(make, where.host, where.port, ssl=context, backlog=1024)


__all__ = ["WINDOW", "Connection", "Done", "Handlers", "Stream", "acceptor", "connect", "serve"]
