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

from modal._protocol import tcp, upgrade
from modal._protocol.address import Address, parse, unreachable
from modal._protocol.errors import Code, ConnectionLost, Fault, ProtocolError, Unreachable
from modal._protocol.frames import Frame, FrameBuffer, Kind, pack, pack_head
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Credit, Failure, Hello, Welcome

if TYPE_CHECKING:
    import ssl as ssl_module  # 10 ms of a container's start, needed for TLS alone

M = TypeVar("M", bound=Message)
WINDOW = 1 << 20  # bytes that a stream's sender may be ahead of its receiver
READ_SIZE = 1 << 16  # bytes; a larger buffer costs more to allocate than the whole rest of a small exchange
LARGE_READ_SIZE = 1 << 18  # bytes, while a large frame comes in
JOIN_LIMIT = 1 << 16  # bytes: a larger body is not copied together with its head
CREDIT_STEP = 1 << 18  # bytes
MAX_NOTES = 1024  # that nobody has taken yet; older ones are dropped
MAX_NOTES_BYTES = 16 << 20
MAX_EARLY_BYTES = 64 << 20  # of items that came while a sender waited for credit
_REQUEST = int(Kind.REQUEST)
_RESPONSE = int(Kind.RESPONSE)
KEEPALIVE_SECONDS = 20.0  # of silence after which a peer on TCP is pinged, and again for its answer


class Connection:
    """An established connection; make it with `connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.welcome: Message | None = None
        self.notes: deque[Frame] = deque()  # NOTE frames that came meanwhile, for whoever wants them
        self.on_note: Callable[[Frame], None] | None = None  # gets them instead, as they come
        self.direct = False  # the server sees itself what has been read here
        self.used = 0.0  # when its last exchange ended, for whoever keeps it
        self.broken = False
        self._watched = sock.family != socket.AF_UNIX  # the peer may vanish without a word
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._notes_bytes = 0
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
        self.send_message(_REQUEST, stream_id, message)
        while True:
            try:
                frame = self.read(timeout)
            except BaseException:
                self.give_up(stream_id)
                raise
            kind, type_, stream, header, body = frame
            if stream != stream_id:
                continue  # the late end of an earlier exchange
            if kind == _RESPONSE:
                answer = decode(type_, header, body)
                if not isinstance(answer, expect):
                    raise ProtocolError(f"{type(message).__name__} was answered with {type(answer).__name__}")
                return answer
            if kind == Kind.FAULT:
                raise fault_of(frame)

    def open(self, message: Message) -> Stream:
        """Ask for something that comes (or goes) in many items."""
        stream_id = self._new_id()
        self.send_message(Kind.REQUEST, stream_id, message)
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
        self.send_message(Kind.NOTE, 0, message)

    def send_message(self, kind: int, stream_id: int, message: Message) -> int:
        """Send one frame; returns what it costs in credit. Raises ConnectionLost, ProtocolError (too large)."""
        header, body = message.encode()
        size = len(body)
        head = pack_head(kind, message.TYPE, stream_id, header, size)
        if size > JOIN_LIMIT:
            self.send_bytes(head)
            self.send_bytes(body)
        else:
            self.send_bytes(head + body if size else head)
        return len(header) + size

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
                if frame.stream:
                    return frame
                if frame.kind == Kind.PING:
                    self.send_bytes(pack(Kind.PONG, 0, 0))
                elif frame.kind == Kind.PONG:
                    continue
                elif frame.kind == Kind.NOTE:
                    (self.on_note or self._keep_note)(frame)
                else:
                    self.broken = True
                    if frame.kind == Kind.FAULT:
                        raise ProtocolError(fault_of(frame).text)
                    raise ProtocolError(f"a frame of kind {frame.kind} has no place on stream 0")
            self._fill(deadline)

    def pending(self) -> bool:
        """Whether `read` would return at once with what has been received already."""
        return bool(self._frames)

    def readable(self) -> bool:
        """Whether `read` would find something without waiting (it may turn out to be the end)."""
        return bool(self._frames) or self._ready(0)

    def _keep_note(self, frame: Frame) -> None:
        self.notes.append(frame)
        self._notes_bytes += len(frame.header) + len(frame.body)
        while len(self.notes) > MAX_NOTES or self._notes_bytes > MAX_NOTES_BYTES:
            oldest = self.notes.popleft()
            self._notes_bytes -= len(oldest.header) + len(oldest.body)
        if len(self.notes) == 1:  # they were taken meanwhile
            self._notes_bytes = len(frame.header) + len(frame.body)

    def _fill(self, deadline: float | None) -> None:
        if deadline is not None or self._watched:
            self._wait(deadline)
        try:
            data = self.socket.recv(LARGE_READ_SIZE if self._buffer.wanted > READ_SIZE else READ_SIZE)
        except (OSError, ValueError) as error:
            self.broken = True
            raise ConnectionLost(f"the connection was lost: {error}") from None
        if not data:
            self.broken = True
            raise ConnectionLost("the other side closed the connection")
        try:
            self._frames.extend(self._buffer.feed(data))
        except BaseException:  # no frames, or an interrupt in their middle
            self.broken = True
            raise

    def _wait(self, deadline: float | None) -> None:
        """Until something can be read. Raises TimeoutError; ConnectionLost where a peer on TCP stays silent."""
        asked = False
        while True:
            seconds = KEEPALIVE_SECONDS if self._watched else 3600.0
            if deadline is not None:
                seconds = min(seconds, max(0.0, deadline - time.monotonic()))
            if self._ready(seconds):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("nothing came in time")
            if self._watched and asked:
                self.broken = True
                raise ConnectionLost(f"the other side has been silent for {2 * KEEPALIVE_SECONDS:g} seconds")
            if self._watched:
                asked = True
                self.send_bytes(pack(Kind.PING, 0, 0))

    def _ready(self, seconds: float) -> bool:
        buffered = getattr(self.socket, "pending", None)  # TLS alone has it
        if buffered is not None and buffered():
            return True
        try:
            return bool(self._poll.poll(seconds * 1000))
        except (OSError, ValueError) as error:  # closed by another thread
            self.broken = True
            raise ConnectionLost(f"the connection was lost: {error}") from None

    def _new_id(self) -> int:
        stream_id = self._next_stream
        self._next_stream = stream_id + 2 if stream_id < 0xFFFFFF00 else 1
        return stream_id

    def upgrade(self, where: Address, timeout: float) -> None:
        """Ask for frames on a connection that begins as HTTP. Raises Unreachable, ConnectionLost, TimeoutError."""
        deadline = time.monotonic() + timeout
        self.send_bytes(upgrade.request_head(where))
        head, begin = b"", 0
        while not begin:
            if not self._ready(max(0.0, deadline - time.monotonic())):
                raise TimeoutError("the answer to the upgrade did not come in time")
            try:
                data = self.socket.recv(READ_SIZE)
            except OSError as error:
                raise ConnectionLost(f"the connection was lost: {error}") from None
            if not data:
                raise ConnectionLost("the other side closed the connection")
            head += data
            begin = upgrade.read_answer(head, where)
        self._frames.extend(self._buffer.feed(head[begin:]))

    def close(self) -> None:
        """End the connection."""
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
        self._early_bytes = 0
        self._over = False  # among them is the end of the exchange

    def send(self, message: Message) -> None:
        """Send one item; waits while the receiver is behind by more than the window. Raises Fault, WireError."""
        while self._credit <= 0 and not self.ended and not self._over:
            frame = self.connection.read()
            if frame.stream != self.id:
                continue
            if frame.kind == Kind.CREDIT:
                self._grant(frame)
                continue
            self._early.append(frame)
            self._early_bytes += len(frame.header) + len(frame.body)
            if self._early_bytes > MAX_EARLY_BYTES:
                self.connection.broken = True
                raise ProtocolError("the peer sends without waiting for credit")
            self._over = frame.kind in (Kind.FAULT, Kind.RESPONSE)
        if self.ended or self._over:
            return  # nobody wants more: `receive` says why
        self._credit -= self.connection.send_message(Kind.ITEM, self.id, message)

    def _grant(self, frame: Frame) -> None:
        self._credit = min(self._credit + max(0, Credit.decode(frame.header, frame.body).size), WINDOW)

    def send_now(self, message: Message) -> None:
        """Send one item whatever the receiver's credit: for peers that bound by other means what is under way."""
        header, body = message.encode()
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
            if self._early:
                frame = self._early.popleft()
                self._early_bytes -= len(frame.header) + len(frame.body)
            else:
                frame = self.connection.read(timeout)
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
                self._grant(frame)
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
        raise unreachable(where, error) from None
    connection = Connection(sock)
    try:
        if where.scheme != "unix":
            connection.upgrade(where, timeout)
        connection.send_bytes(pack(Kind.HELLO, hello.TYPE, 0, *hello.encode()))
        welcome = connection.welcome = _welcome(connection, timeout)
        connection.direct = isinstance(welcome, Welcome) and welcome.direct
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
    try:
        tcp.tune(sock)
        if where.scheme == "tls":
            if context is None:
                from modal._protocol.tls import client_context

                context = client_context()
            sock = context.wrap_socket(sock, server_hostname=where.host)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
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
