"""What the kernel says of a unix socket's peer."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from intermodal.server.queues.arrivals import is_read


class Peer:
    """As much of a connection as is asked."""

    unsent = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def extra(self, _name: str) -> socket.socket:
        return self._sock


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        yield ours, theirs


def test_what_was_read_and_what_was_not(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(b"item")
    assert not is_read(Peer(ours))  # type: ignore[arg-type]
    assert theirs.recv(100) == b"item"
    assert is_read(Peer(ours))  # type: ignore[arg-type]


def test_what_a_peer_that_died_has_not_read(ends: tuple[socket.socket, socket.socket]) -> None:
    """Nothing of it waits in the kernel any more, either."""
    ours, theirs = ends
    ours.sendall(b"item")
    theirs.close()
    assert not is_read(Peer(ours))  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        ours.recv(1)


def test_an_end_is_left_to_the_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.sendall(b"item")
    theirs.recv(100)
    theirs.close()
    assert not is_read(Peer(ours))  # type: ignore[arg-type]
    assert ours.recv(1) == b""
