"""Tunnels: a container's port that others can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from modal._planned import planned
from modal.exception import InvalidError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from modal._client import Client


class Tunnel:
    """A port forwarded from within a running Modal container. Created by `modal.forward()`."""

    __slots__ = ("host", "port", "unencrypted_host", "unencrypted_port")

    def __init__(self, host: str, port: int, unencrypted_host: str, unencrypted_port: int) -> None:
        self.host = host
        self.port = port
        self.unencrypted_host = unencrypted_host
        self.unencrypted_port = unencrypted_port

    @property
    def url(self) -> str:
        """Get the public HTTPS URL of the forwarded port."""
        return f"https://{self.host}" if self.port == 443 else f"https://{self.host}:{self.port}"

    @property
    def tls_socket(self) -> tuple[str, int]:
        """Get the public TLS socket as a (host, port) tuple."""
        return self.host, self.port

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """Get the public TCP socket as a (host, port) tuple. Raises InvalidError where the tunnel is encrypted."""
        if not self.unencrypted_host:
            raise InvalidError("This tunnel has no unencrypted socket: use modal.forward(port, unencrypted=True).")
        return self.unencrypted_host, self.unencrypted_port

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tunnel):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __hash__(self) -> int:
        return hash((self.host, self.port, self.unencrypted_host, self.unencrypted_port))

    def __repr__(self) -> str:
        return (
            f"Tunnel(host={self.host!r}, port={self.port!r}, unencrypted_host={self.unencrypted_host!r}, "
            f"unencrypted_port={self.unencrypted_port!r})"
        )


@planned
def forward(port: int, *, unencrypted: bool = False, client: Optional[Client] = None) -> AbstractContextManager[Tunnel]:
    """Expose a port publicly from inside a running Modal container, with TLS."""
    raise AssertionError
