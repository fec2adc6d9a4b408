"""The connections of producers and consumers: what each waits for, and what happens when it gives up or is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from intermodal.server.queues.waiting import Getter, Peer, Putter
from modal._protocol.aio import Connection
from modal._protocol.errors import Code, Fault

_PEER = "queue_peer"


class Peers:
    """Set `getter_gone(getter, read)` (whether its connection ended and had read all) and `putter_gone` before use."""

    def __init__(self) -> None:
        self.getter_gone: Callable[[Getter, bool], None]
        self.putter_gone: Callable[[Putter], None]
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def of(self, connection: Connection) -> Peer:
        """What is known of a connection."""
        found: Peer | None = getattr(connection, _PEER, None)
        if found is None:
            found = Peer()
            setattr(connection, _PEER, found)
            connection.on_close.append(lambda _error: self._lost(connection))
            before = connection.on_cancel
            connection.on_cancel = lambda stream_id: self._cancelled(connection, stream_id, before)
        return found

    def _cancelled(self, connection: Connection, stream_id: int, otherwise: Callable[[int], None] | None) -> None:
        peer = self.of(connection)
        waiting = peer.streams.pop(stream_id, None) or peer.served(stream_id)
        if waiting is None:
            if otherwise is not None:
                otherwise(stream_id)
        elif isinstance(waiting, Getter):
            self.getter_gone(waiting, False)
        elif isinstance(waiting, Putter):
            self.putter_gone(waiting)
        else:
            waiting.cancel()

    def _lost(self, connection: Connection) -> None:
        """The connection ended: what waits there leaves; what it was lent and did not confirm comes back."""
        peer = self.of(connection)
        for waiting in list(peer.streams.values()):
            if isinstance(waiting, Putter):
                self.putter_gone(waiting)
            elif not isinstance(waiting, Getter):
                waiting.cancel()
        peer.streams.clear()
        read = connection.direct and connection.read_to_end
        for getter in list(peer.getters.values()):
            self.getter_gone(getter, read)

    def answer_later(self, connection: Connection, stream_id: int, work: Coroutine[Any, Any, Any]) -> None:
        """`work` answers, unless it fails."""

        async def answer() -> None:
            try:
                await work
            except asyncio.CancelledError:
                raise
            except Exception as error:
                streams.pop(stream_id, None)
                fail(connection, stream_id, error)
            finally:
                if streams.get(stream_id) is task:
                    del streams[stream_id]

        streams = self.of(connection).streams
        task = self.background(answer())
        streams[stream_id] = task

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Work that nobody waits for here."""
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()


def fail(connection: Connection, stream_id: int, error: Exception) -> None:
    """Answer with it."""
    if connection.closed:
        return
    fault = error if isinstance(error, Fault) else Fault(Code.INTERNAL, f"{type(error).__name__}: {error}")
    connection.fail(stream_id, fault)
