"""What a TCP socket of ours is set to."""

from __future__ import annotations

import socket

IDLE_SECONDS = 30  # of silence before the kernel asks whether the other machine is still there
ASK_SECONDS = 10
ASK_COUNT = 3
UNACKNOWLEDGED_MS = 60_000  # how long sent data may stay without acknowledgement


def tune(sock: socket.socket) -> None:
    """Send small frames at once, and notice a machine that is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", IDLE_SECONDS),
        ("TCP_KEEPINTVL", ASK_SECONDS),
        ("TCP_KEEPCNT", ASK_COUNT),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS),
    ):
        option = getattr(socket, name, None)  # not on every system
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def tune_descriptor(descriptor: int) -> None:
    """As `tune`, for an event loop's socket."""
    sock = socket.socket(fileno=descriptor)
    try:
        tune(sock)
    finally:
        sock.detach()
