"""Where tunnels are reachable: from environment variables (docs/web.md)."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from intermodal.server.store.migrations import Refused

DEFAULT_PORT = 7724  # where tunnels that are told apart by name are reached
NAMES = "tunnel.localhost"


@dataclass(frozen=True)
class TunnelSettings:
    """`named`: each tunnel has a name below `host`, on one port; else it has a port of its own on `host`."""

    host: str = "localhost"
    named: bool = False
    listen: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # for names
    fixed: bool = False  # that port was asked for: no other will do
    first: int = 0  # the ports that a tunnel may get; 0: any free one
    last: int = 0

    @property
    def certificate_names(self) -> list[str]:
        """What a certificate must be for."""
        if self.host in ("localhost", NAMES):
            return ["localhost", f"*.{NAMES}", "127.0.0.1", "::1"]
        return [f"*.{self.host}"] if self.named else [self.host]


def read_settings(environ: Mapping[str, str] = os.environ) -> TunnelSettings:
    """Raises Refused, which names the variable."""
    host = environ.get("INTERMODAL_TUNNEL_HOST", "").strip().lower()
    listen, port, fixed = _listen(environ.get("INTERMODAL_TUNNEL_LISTEN", "").strip())
    first, last = _ports(environ.get("INTERMODAL_TUNNEL_PORTS", "").strip())
    named = host.startswith("*.")
    if not host:
        # A name of its own for each tunnel, where the machine's resolver knows what browsers know of `.localhost`.
        named = _resolves(f"x.{NAMES}")
        host = NAMES if named else "localhost"
    host = host.removeprefix("*.")
    if not host or "/" in host or (":" in host.strip("[]") and not _is_address(host)):
        raise Refused(f"INTERMODAL_TUNNEL_HOST={host!r} must be a host name, an address or *.DOMAIN")
    return TunnelSettings(host, named, listen, port, fixed, first, last)


def _listen(text: str) -> tuple[str, int, bool]:
    if not text:
        return "127.0.0.1", DEFAULT_PORT, False
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), DEFAULT_PORT, False
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise Refused(f"INTERMODAL_TUNNEL_LISTEN={text!r} must be ADDRESS or ADDRESS:PORT")
    return host.strip("[]") or "0.0.0.0", int(port), port != "0"  # noqa: S104 - asked for


def _ports(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    first, dash, last = text.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise Refused(f"INTERMODAL_TUNNEL_PORTS={text!r} must be FIRST-LAST, such as 20000-20999")
    return int(first), int(last)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def is_localhost(host: str) -> bool:
    """Whether each machine, and each container, calls itself so."""
    return host == "localhost" or host.endswith(".localhost")


def _resolves(name: str) -> bool:
    """Whether programs on this machine reach the loopback address by that name."""
    try:
        found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)
