"""What a side answers, by message class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Awaitable, Callable, Optional

from modal._protocol.message import Message

if TYPE_CHECKING:
    from modal._protocol.aio import Connection
    from modal._protocol.stream import Stream

UnaryHandler = Callable[["Connection", Any], Awaitable[Message]]
StreamHandler = Callable[["Connection", Any, "Stream"], Awaitable[Optional[Message]]]
FastHandler = Callable[["Connection", int, Any], None]
NoteHandler = Callable[["Connection", Any], None]


class Handlers:
    """One instance serves any number of connections."""

    def __init__(self) -> None:
        self.unaries: dict[int, UnaryHandler] = {}
        self.streams: dict[int, StreamHandler] = {}
        self.fasts: dict[int, FastHandler] = {}
        self.notes: dict[int, NoteHandler] = {}

    def unary(self, cls: type[Message]) -> Callable[[UnaryHandler], UnaryHandler]:
        """`async def handler(connection, message) -> Message`; raise Fault to refuse."""
        return _register(self.unaries, cls)

    def stream(self, cls: type[Message]) -> Callable[[StreamHandler], StreamHandler]:
        """`async def handler(connection, message, stream)`; a message returned is the final RESPONSE, None sends END.

        A handler that set `stream.raw` may return None while the peer still sends: the stream then stays
        open, `raw` goes on to get its items, and whoever keeps the stream calls `stream.end()`.
        """
        return _register(self.streams, cls)

    def fast(self, cls: type[Message]) -> Callable[[FastHandler], FastHandler]:
        """`def handler(connection, stream_id, message)`: no task is made; answers later with `connection.respond`.

        Where the peer gives the request up, `connection.on_cancel` is told.
        """
        return _register(self.fasts, cls)

    def note(self, cls: type[Message]) -> Callable[[NoteHandler], NoteHandler]:
        """`def handler(connection, message)`."""
        return _register(self.notes, cls)


def _register(table: dict[int, Any], cls: type[Message]) -> Callable[[Any], Any]:
    def keep(handler: Any) -> Any:
        table[cls.TYPE] = handler
        return handler

    return keep
