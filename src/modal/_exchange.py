"""An open exchange (many items, up or down) with one interface for both faces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from modal._protocol.errors import WireError

if TYPE_CHECKING:
    from modal._protocol import aio, blocking
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

    @property
    def is_blocking(self) -> bool:
        return self._release is not None

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

    def end(self) -> None:
        """No more items from this side."""
        if not self._sent_end:
            self._sent_end = True
            self._stream.end()

    async def receive(self) -> Optional[Message]:
        """The next item, None when the exchange is over."""
        message: Optional[Message]
        message = self._stream.receive() if self._release is not None else await self._stream.receive()
        if message is None:
            self._over = True
        return message

    def ready(self) -> bool:
        """Whether `receive` would (most probably) return at once."""
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
