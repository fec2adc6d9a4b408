"""Tunnels: a container's port that others can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AsyncIterator, Optional

from modal import _context
from modal._sync import synchronized_context
from modal.exception import InvalidError

if TYPE_CHECKING:
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
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" if self.port == 443 else f"https://{host}:{self.port}"

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


@synchronized_context
async def forward(port: int, *, unencrypted: bool = False, client: Optional[Client] = None) -> AsyncIterator[Tunnel]:
    """Expose a port publicly from inside a running Modal container, with TLS.

    If `unencrypted` is set, this also exposes the TCP socket without encryption on a random port number. The
    port is exposed until the block ends, or the container.

    Raises InvalidError for what is no port, and outside a container; AuthError in a restricted function.
    """
    given: Any = port
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 65535:
        raise InvalidError(f"modal.forward: the port must be a number from 1 to 65535, not {port!r}.")
    if _context.is_local():
        raise InvalidError(
            "modal.forward exposes a port of a container: call it in a function that runs in one, not on this machine."
        )
    from modal._client import Client
    from modal._protocol.messages.tunnel import TunnelClose, TunnelOpen, TunnelOpened
    from modal._protocol.messages.wire import Done

    own = client or Client.current()
    opened = await own.request(TunnelOpen(port, bool(unencrypted)), TunnelOpened)
    try:
        yield Tunnel(opened.host, opened.port, opened.unencrypted_host, opened.unencrypted_port)
    finally:
        await own.request(TunnelClose(opened.tunnel_id), Done)
