"""What has arrived at clients that need not say so: the kernel knows what of a unix socket was read.

Such a client has its end of the socket to itself and reads it only for the answer that it waits for. Its next request
names what it has got; where none comes soon the socket is looked at. Where it ends the connection, an end says that it
had read all, and a reset that it had not.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import struct
import termios
from collections.abc import Callable

from intermodal.server.queues.waiting import LENT, Getter
from modal._protocol.aio import Connection

LOOK_DELAY = 0.1  # seconds: longer than a consumer in a loop takes until its next get, or an interrupted one to say so
_SIZE = struct.Struct("i")


class Arrivals:
    """`arrived` is told of what a client was lent and has read."""

    def __init__(self, arrived: Callable[[Getter], None]) -> None:
        self._arrived = arrived
        self._loop = asyncio.get_running_loop()
        self._watched: list[Getter] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, getter: Getter) -> None:
        """Its items were sent."""
        self._watched.append(getter)
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_DELAY, self.look)

    def look(self) -> None:
        """Which of them have been read by now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        watched, self._watched = self._watched, []
        for getter in watched:
            connection = getter.connection
            if getter.state != LENT or connection is None or connection.closed:
                continue  # it is known
            if is_read(connection):
                self._arrived(getter)
            else:
                self._watched.append(getter)
        if self._watched:
            self._timer = self._loop.call_later(LOOK_DELAY, self.look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()


def is_read(connection: Connection) -> bool:
    """Whether the peer has read all that was sent to it."""
    sock = connection.extra("socket")  # noqa: S610 - no Django here
    if sock is None or connection.unsent:
        return False
    try:
        size: int = _SIZE.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_SIZE.size)))[0]
    except OSError:
        return False
    return size == 0 and not _has_ended(sock.fileno())


def _has_ended(descriptor: int) -> bool:
    """Whether the peer is gone, and with it what it had not read.

    To be asked after the size: the kernel notes the end before it drops anything. How much was read, the end of the
    connection will tell.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)  # errors and the end of both directions are always told
    return bool(poll.poll(0))
