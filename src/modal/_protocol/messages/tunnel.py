"""Tunnels: a container's port that others can reach."""

from __future__ import annotations

from modal._protocol.message import Message


class TunnelOpen(Message, type=245):
    """From a container, for a port of its own. Answered with TunnelOpened. Faults: invalid, exhausted.

    The tunnel is there until TunnelClose, or the container's end.
    """

    port: int
    unencrypted: bool = False  # reachable without TLS too


class TunnelOpened(Message, type=246):
    tunnel_id: str
    host: str  # with TLS
    port: int
    unencrypted_host: str = ""
    unencrypted_port: int = 0


class TunnelClose(Message, type=247):
    """Answered with Done. Connections through it end. Closing it twice is no error."""

    tunnel_id: str
