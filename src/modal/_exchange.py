"""An open exchange (many items, up or down) with one interface for both faces."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Deque, Optional, Union

from modal._protocol.errors import WireError

if TYPE_CHECKING:
    from modal._protocol import aio, blocking
    from modal._protocol.frames import Frame
    from modal._protocol.message import Message

    AnyStream = Union[aio.Stream, blocking.Stream]


class Exchange:
    """What `Client.open` gives. Raises Fault and WireError as the wire does: the caller decides about repeating.

    Always `close` it: an exchange that is not over is then cancelled.
    """

    def __init__(self, stream: AnyStream, release: Optional[Callable[[bool], None]] = None) -> None:
        self._stream: Any = stream
        self._release = release  # blocking face: gives the connection back; True: it may be used again
        self._sent_end = False
        self._over = False
        self._inbox: Optional[_Inbox] = None

    @property
    def response(self) -> Optional[Message]:
        """The message that ended the exchange, None where it ended without."""
        return self._stream.response  # type: ignore[no-any-return]

    async def send(self, message: Message) -> None:
        """Send one item; waits while the server is behind."""
        if self._release is not None:
            self._stream.send(message)
        else:
            await self._stream.send(message)

    async def send_now(self, message: Message) -> None:
        """Send one item of an exchange whose sides agree otherwise on how much is under way."""
        self._stream.send_now(message)
        if self._release is None and self._stream.connection.paused:
            await self._stream.connection.drain()

    def note(self, message: Message) -> None:
        """Tell something that needs no answer, on the connection of this exchange."""
        self._stream.connection.note(message)

    def take_all(self, wake: Callable[[], None]) -> None:
        """The server sends without waiting for credit: let `receive` take whatever comes, and call `wake` then.

        Only asyncio's connections need it: a blocking one reads no more than is asked for.
        """
        if self._release is None:
            self._inbox = _Inbox(self._stream, wake)

    def end(self) -> None:
        """No more items from this side."""
        if not self._sent_end:
            self._sent_end = True
            self._stream.end()

    async def receive(self) -> Optional[Message]:
        """The next item, None when the exchange is over."""
        message: Optional[Message]
        if self._release is not None:
            message = self._stream.receive()
        elif self._inbox is not None:
            message = await self._inbox.receive()
        else:
            message = await self._stream.receive()
        if message is None:
            self._over = True
        return message

    def ready(self) -> bool:
        """Whether `receive` would (most probably) return at once."""
        if self._inbox is not None:
            return self._inbox.ready()
        return self._stream.ready()  # type: ignore[no-any-return]

    def close(self, *, reuse: bool = True) -> None:
        """End the exchange; cancels what is not over. `reuse` false: the connection is in the middle of something."""
        over, self._over = self._over, True
        try:
            if not over:
                self._stream.cancel()
            elif not self._sent_end:
                self.end()
        except WireError:
            reuse = False
        if self._release is not None:
            release, self._release = self._release, _released
            release(reuse)


def _released(_reuse: bool) -> None:
    """Closing twice does no harm."""


class _Inbox:
    """Frames of an asyncio stream as they came, without credit."""

    def __init__(self, stream: aio.Stream, wake: Callable[[], None]) -> None:
        self._stream = stream
        self._frames: Deque[Frame] = deque()
        self._wake = wake
        self._waiter: Any = None
        self._ended = False
        self._error: Optional[Exception] = None
        stream.raw = self._take
        stream.on_end = self._finish

    def ready(self) -> bool:
        return bool(self._frames) or self._ended

    async def receive(self) -> Optional[Message]:
        from modal._protocol.message import decode

        while not self._frames:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = self._stream.connection.loop.create_future()
            await self._waiter
        frame = self._frames.popleft()
        return decode(frame.type, frame.header, frame.body)

    def _take(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._tell()

    def _finish(self, error: Optional[Exception]) -> None:
        self._ended = True
        self._error = error
        self._tell()

    def _tell(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._wake()
