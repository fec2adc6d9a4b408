"""Frames over a blocking socket: the quickest way for code that waits anyway.

A connection serves one request or stream at a time; callers that want several at once take
several connections (`modal._client` keeps a pool). No thread and no event loop is needed.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Callable, Iterator, TypeVar

from modal._protocol.address import Address, parse
from modal._protocol.errors import Code, ConnectionLost, Fault, ProtocolError, Unreachable
from modal._protocol.frames import Frame, FrameBuffer, Kind, pack
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Credit, Failure, Hello, Welcome

if TYPE_CHECKING:
    import ssl as ssl_module  # 10 ms of a container's start, needed for TLS alone

M = TypeVar("M", bound=Message)
WINDOW = 1 << 20  # bytes that a stream's sender may be ahead of its receiver
READ_SIZE = 1 << 18  # bytes
CREDIT_STEP = 1 << 18  # bytes


class Connection:
    """An established connection; make it with `connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.welcome: Message | None = None
        self.notes: deque[Frame] = deque()  # NOTE frames that came meanwhile, for whoever wants them
        self.on_note: Callable[[Frame], None] | None = None  # gets them instead, as they come
        self.broken = False
        self._buffer = FrameBuffer()
        self._frames: deque[Frame] = deque()
        self._next_stream = 1

    def fileno(self) -> int:
        return self.socket.fileno()

    def request(self, message: Message, expect: type[M], timeout: float | None = None) -> M:
        """Ask and wait for the answer. Raises Fault, WireError, or TimeoutError after `timeout` seconds.

        Whoever gives up waiting (the time is over, an interrupt) has told the peer so.
        """
        stream_id = self._new_id()
        header, body = message.encode()
        self.send_bytes(pack(Kind.REQUEST, message.TYPE, stream_id, header, body))
        while True:
            try:
                frame = self.read(timeout)
            except BaseException:
                self.give_up(stream_id)
                raise
            if frame.stream != stream_id:
                continue  # the late end of an earlier exchange
            if frame.kind == Kind.RESPONSE:
                answer = decode(frame.type, frame.header, frame.body)
                if not isinstance(answer, expect):
                    raise ProtocolError(f"{type(message).__name__} was answered with {type(answer).__name__}")
                return answer
            if frame.kind == Kind.FAULT:
                raise fault_of(frame)

    def open(self, message: Message) -> Stream:
        """Ask for something that comes (or goes) in many items."""
        stream_id = self._new_id()
        self.send_bytes(pack(Kind.REQUEST, message.TYPE, stream_id, *message.encode()))
        return Stream(self, stream_id)

    def give_up(self, stream_id: int) -> None:
        """Tell the peer that nobody waits for this exchange any more, if it can still be told."""
        if not self.broken:
            try:
                self.send_bytes(pack(Kind.CANCEL, 0, stream_id))
            except ConnectionLost:
                return  # then the peer knows already

    def note(self, message: Message) -> None:
        """Tell something that needs no answer."""
        self.send_bytes(pack(Kind.NOTE, message.TYPE, 0, *message.encode()))

    def send_bytes(self, data: bytes) -> None:
        """Send whole frames. Raises ConnectionLost."""
        try:
            self.socket.sendall(data)
        except (OSError, ValueError) as error:
            self.broken = True
            raise ConnectionLost(f"the connection was lost: {error}") from None
        except BaseException:  # an interrupt in the middle of a frame: nobody may write here again
            self.broken = True
            raise

    def read(self, timeout: float | None = None) -> Frame:
        """The next frame that matters. Raises ConnectionLost; TimeoutError when none came in time (0: polls)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.kind == Kind.PING:
                    self.send_bytes(pack(Kind.PONG, 0, 0))
                elif frame.kind == Kind.NOTE:
                    (self.on_note or self.notes.append)(frame)
                elif frame.kind == Kind.FAULT and frame.stream == 0:
                    self.broken = True
                    raise ProtocolError(fault_of(frame).text)
                else:
                    return frame
            self._fill(deadline)

    def pending(self) -> bool:
        """Whether `read` would return at once with what has been received already."""
        return bool(self._frames)

    def readable(self) -> bool:
        """Whether `read` would find something without waiting (it may turn out to be the end)."""
        return bool(self._frames) or self._ready(0)

    def _fill(self, deadline: float | None) -> None:
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            if not self._ready(left):
                raise TimeoutError("nothing came in time")
        try:
            data = self.socket.recv(READ_SIZE)
        except (OSError, ValueError) as error:
            self.broken = True
            raise ConnectionLost(f"the connection was lost: {error}") from None
        if not data:
            self.broken = True
            raise ConnectionLost("the other side closed the connection")
        try:
            self._frames.extend(self._buffer.feed(data))
        except ProtocolError:
            self.broken = True
            raise

    def _ready(self, seconds: float) -> bool:
        buffered = getattr(self.socket, "pending", None)  # TLS alone has it
        if buffered is not None and buffered():
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _new_id(self) -> int:
        stream_id = self._next_stream
        self._next_stream = stream_id + 2 if stream_id < 0xFFFFFF00 else 1
        return stream_id

    def close(self) -> None:
        self.broken = True
        self.socket.close()


class Stream:
    """One open exchange on a blocking connection."""

    def __init__(self, connection: Connection, id: int) -> None:
        self.connection = connection
        self.id = id
        self.response: Message | None = None
        self.ended = False  # the peer's side is over
        self._consumed = 0
        self._credit = WINDOW
        self._early: deque[Frame] = deque()  # came while a sender waited for credit
        self._over = False  # among them is the end of the exchange

    def send(self, message: Message) -> None:
        """Send one item; waits while the receiver is behind by more than the window. Raises Fault, WireError."""
        header, body = message.encode()
        while self._credit <= 0 and not self.ended and not self._over:
            frame = self.connection.read()
            if frame.stream != self.id:
                continue
            if frame.kind == Kind.CREDIT:
                self._credit += Credit.decode(frame.header, frame.body).size
                continue
            self._early.append(frame)
            self._over = frame.kind in (Kind.FAULT, Kind.RESPONSE)
        if self._over:
            return  # nobody wants more: `receive` says why
        self._credit -= len(header) + len(body)
        self.connection.send_bytes(pack(Kind.ITEM, message.TYPE, self.id, header, body))

    def ready(self) -> bool:
        """Whether `receive` has something to look at already."""
        return bool(self._early) or self.ended or self.connection.readable()

    def end(self) -> None:
        """No more items from this side."""
        self.connection.send_bytes(pack(Kind.END, 0, self.id))

    def cancel(self) -> None:
        """The opener wants no more of it."""
        if not self.connection.broken:
            self.connection.send_bytes(pack(Kind.CANCEL, 0, self.id))
        self.ended = True

    def receive(self, timeout: float | None = None) -> Message | None:
        """The next item; None after END or RESPONSE (kept in `response`). Raises Fault, WireError, TimeoutError."""
        if self.ended:
            return None
        while True:
            frame = self._early.popleft() if self._early else self.connection.read(timeout)
            if frame.stream != self.id:
                continue
            if frame.kind == Kind.ITEM:
                self._consumed += len(frame.header) + len(frame.body)
                if self._consumed >= CREDIT_STEP:
                    credit = Credit(self._consumed)
                    self._consumed = 0
                    self.connection.send_bytes(pack(Kind.CREDIT, credit.TYPE, self.id, *credit.encode()))
                return decode(frame.type, frame.header, frame.body)
            if frame.kind == Kind.CREDIT:
                self._credit += Credit.decode(frame.header, frame.body).size
                continue
            if frame.kind == Kind.END:
                self.ended = True
                return None
            if frame.kind == Kind.RESPONSE:
                self.ended = True
                self.response = decode(frame.type, frame.header, frame.body)
                return None
            if frame.kind == Kind.FAULT:
                self.ended = True
                raise fault_of(frame)

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = self.receive()
            if message is None:
                return
            yield message


def fault_of(frame: Frame) -> Fault:
    """The Fault that a FAULT frame carries."""
    failure = Failure.decode(frame.header, frame.body)
    return Fault(failure.code, failure.text)


def connect(
    address: Address | str,
    hello: Hello,
    *,
    ssl: ssl_module.SSLContext | None = None,
    timeout: float = 10.0,
) -> Connection:
    """Connect and greet. Raises Unreachable, Fault (refused: version, token) or ProtocolError."""
    where = parse(address) if isinstance(address, str) else address
    try:
        sock = _dial(where, ssl, timeout)
    except OSError as error:  # SSLError is one
        raise Unreachable(f"nobody answers at {where}: {error}") from None
    connection = Connection(sock)
    try:
        connection.send_bytes(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))
        connection.welcome = _welcome(connection, timeout)
    except TimeoutError:
        connection.close()
        raise Unreachable(f"{where} does not greet: is it an Intermodal server?") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _dial(where: Address, context: ssl_module.SSLContext | None, timeout: float) -> socket.socket:
    if where.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(where.host)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(None)
        return sock
    sock = socket.create_connection((where.host, where.port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if where.scheme == "tls":
        if context is None:
            import ssl

            context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=where.host)
    sock.settimeout(None)
    return sock


def _welcome(connection: Connection, timeout: float) -> Message:
    deadline = time.monotonic() + timeout
    while True:
        while connection._frames:
            frame = connection._frames.popleft()
            if frame.kind == Kind.FAULT:
                raise fault_of(frame)
            if frame.kind != Kind.WELCOME:
                raise ProtocolError("the other side did not greet")
            return decode(frame.type, frame.header, frame.body)
        connection._fill(deadline)


__all__ = ["Code", "Connection", "Stream", "Welcome", "connect"]
