"""One open exchange on an asyncio connection: items in both directions, with credit."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Callable, Optional

from modal._protocol.errors import Code, ConnectionLost, Fault, ProtocolError
from modal._protocol.frames import Frame, Kind
from modal._protocol.message import Message, decode
from modal._protocol.messages.wire import Credit

if TYPE_CHECKING:
    from modal._protocol.aio import Connection

WINDOW = 1 << 20  # bytes that a stream's sender may be ahead of its receiver
CREDIT_STEP = WINDOW // 4  # bytes consumed before the receiver says so


class Stream:
    """One open exchange; `Connection.open` and stream handlers give it.

    `raw`, when set, gets every ITEM frame undecoded and at once. What it raises ends the stream:
    a ProtocolError or Fault is told to the peer. `on_end` is called once, when the peer's side is
    over: with None after END or RESPONSE, with the error otherwise.
    """

    __slots__ = (
        "_consumed", "_credit", "_ended", "_error", "_queue", "_queued", "_senders", "_sent_end", "_waiter",
        "_watchers", "connection", "id", "on_end", "raw", "response",
    )  # fmt: skip

    def __init__(self, connection: Connection, id: int) -> None:
        self.connection = connection
        self.id = id
        self.raw: Optional[Callable[[Frame], None]] = None
        self.on_end: Optional[Callable[[Optional[Exception]], None]] = None
        self.response: Optional[Message] = None
        self._queue: deque[Frame] = deque()
        self._queued = 0  # bytes in `_queue`
        self._waiter: Optional[asyncio.Future[None]] = None
        self._ended = False  # the peer's side
        self._sent_end = False  # this side
        self._error: Optional[Exception] = None
        self._credit = WINDOW
        self._consumed = 0  # bytes that the peer has no credit for yet
        self._senders: deque[asyncio.Future[None]] = deque()  # those who wait for credit, in order
        self._watchers: list[asyncio.Future[None]] = []  # those who wait for the end

    @property
    def is_ended(self) -> bool:
        """Whether the peer's side is over."""
        return self._ended

    @property
    def is_over(self) -> bool:
        """Whether both sides are."""
        return self._ended and self._sent_end

    # -- sending
    async def send(self, message: Message) -> None:
        """Send one item; waits while the receiver is behind by more than the window. Raises Fault, WireError."""
        header, body = message.encode()
        self.check()
        while self._credit <= 0:
            turn = self.connection.loop.create_future()
            self._senders.append(turn)
            try:
                await turn
            finally:
                if turn in self._senders:
                    self._senders.remove(turn)
                elif self._credit > 0:
                    self._wake_senders()
            self.check()
        self._credit -= len(header) + len(body)
        self.connection.send_frame(Kind.ITEM, message.TYPE, self.id, header, body)
        if self.connection.paused:
            await self.connection.drain()

    def send_now(self, message: Message) -> None:
        """Send one item without waiting: for what is bounded by other means. Sends nothing once the stream is over."""
        self.pass_on(message.TYPE, *message.encode())

    def send_frame(self, type: int, header: bytes, body: bytes) -> None:
        """Pass on an item as it came from elsewhere, without waiting."""
        self.pass_on(type, header, body)

    def pass_on(self, type: int, header: bytes, body: bytes) -> None:
        """As `send_frame`."""
        if not self._sent_end:
            self._credit -= len(header) + len(body)
            self.connection.send_frame(Kind.ITEM, type, self.id, header, body)

    def end(self) -> None:
        """No more items from this side."""
        if not self._sent_end:
            self._sent_end = True
            self.connection.send_frame(Kind.END, 0, self.id, b"", b"")
            if self._ended:
                self.connection.forget(self.id)

    def cancel(self) -> None:
        """The opener wants no more of it."""
        if not (self._sent_end and self._ended):
            self._sent_end = True
            self.connection.send_frame(Kind.CANCEL, 0, self.id, b"", b"")
        self.connection.forget(self.id)
        self.finish(Fault(Code.CANCELLED, "cancelled by the caller"))

    def check(self) -> None:
        """Raise why nothing can be sent any more, if so."""
        if self._error is not None:
            raise self._error
        if self.connection.closed:
            raise ConnectionLost("the connection was lost")
        if self._sent_end:
            raise Fault(Code.CANCELLED, "the stream has ended")

    # -- receiving
    async def receive(self) -> Optional[Message]:
        """The next item, or None after END (a final RESPONSE is then in `response`). Raises Fault or WireError."""
        frame = await self.receive_frame()
        return None if frame is None else decode(frame.type, frame.header, frame.body)

    async def receive_frame(self) -> Optional[Frame]:
        """As `receive`, undecoded."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            if self._waiter is not None:
                raise RuntimeError("two receivers on one stream")
            self._waiter = self.connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        frame = self._queue.popleft()
        size = len(frame.header) + len(frame.body)
        self._queued -= size
        self.connection.held -= size
        self.consumed(size)
        return frame

    def ready(self) -> bool:
        """Whether `receive` would return at once."""
        return bool(self._queue) or self._ended

    async def wait_ended(self) -> None:
        """Return when the peer's side is over, however it ended."""
        if not self._ended:
            watcher = self.connection.loop.create_future()
            self._watchers.append(watcher)
            await watcher

    def take_queued(self) -> list[Frame]:
        """The items that have come already, for whoever sets `raw` then."""
        frames, size = list(self._queue), self._queued
        self._queue.clear()
        self._queued = 0
        self.connection.held -= size
        self.consumed(size)
        return frames

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Message:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    def consumed(self, size: int) -> None:
        """Allow the peer to send `size` bytes more. (The stream does this itself.)"""
        self._consumed += size
        if self._consumed >= CREDIT_STEP and not self._ended:
            self.connection.send_frame(Kind.CREDIT, Credit.TYPE, self.id, *Credit(self._consumed).encode())
            self._consumed = 0

    # -- called by the connection
    def take(self, frame: Frame) -> None:
        """An item came. Raises ProtocolError where the peer breaks the rules of the connection."""
        if self._ended:
            raise ProtocolError(f"an item on stream {self.id} after its end")
        size = len(frame.header) + len(frame.body)
        if self.raw is not None:
            try:
                self.raw(frame)
            except Exception as error:
                self.connection.fail_stream(self, error)
            else:
                self.consumed(size)
            return
        self.connection.hold(size, self._queued + size)
        self._queue.append(frame)
        self._queued += size
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def grant(self, size: int) -> None:
        """The peer has consumed so much."""
        if not 0 < size <= 1 << 32:
            raise ProtocolError(f"credit of {size} bytes")
        self._credit = min(self._credit + size, WINDOW)
        if self._credit > 0:
            self._wake_senders()

    def finish(self, error: Optional[Exception]) -> None:
        """The peer's side is over: no more items come."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        if error is not None:
            self._sent_end = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._sent_end:
            while self._senders:
                self._wake_senders()
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        if self.on_end is not None:
            self.connection.guard(self.on_end, error)

    def drop(self) -> None:
        """What was not received will not be."""
        self.connection.held -= self._queued
        self._queue.clear()
        self._queued = 0

    def _wake_senders(self) -> None:
        while self._senders:
            turn = self._senders.popleft()
            if not turn.done():
                turn.set_result(None)
                return
