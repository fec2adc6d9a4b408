"""Ports for programs that must be told one before they listen."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """One that nobody has, nor gets by chance meanwhile: the kernel gives it to no connection and no listener that asks
    for any port. Another one each time."""
    first, last = map(int, RANGE.read_text().split()) if RANGE.exists() else (32768, 60999)
    choice = [port for port in range(10_000, 65_536) if not first <= port <= last and port not in _given]
    while True:
        port = secrets.choice(choice)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                choice.remove(port)
                continue
        _given.add(port)
        return port
