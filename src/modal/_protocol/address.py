"""Where a peer listens: `unix:/path`, `tcp://host:port`, `tls://host:port`."""

from __future__ import annotations

from typing import NamedTuple

from modal._protocol.errors import ProtocolError

DEFAULT_PORT = 7722


class Address(NamedTuple):
    """`scheme` is "unix", "tcp" or "tls"; `host` is the socket's path for "unix"."""

    scheme: str
    host: str
    port: int = 0

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str) -> Address:
    """Raises ProtocolError with what is allowed. `http` and `https` mean `tcp` and `tls`."""
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        path = path[2:] if path.startswith("//") else path
        if not path.startswith("/"):
            raise ProtocolError(
                f"{text!r}: a unix address needs an absolute path, like unix:/run/intermodal/server.sock"
            )
        return Address("unix", path)
    scheme, separator, rest = text.partition("://")
    scheme = {"http": "tcp", "https": "tls"}.get(scheme, scheme)
    if not separator or scheme not in ("tcp", "tls"):
        raise ProtocolError(f"{text!r} is no address: use unix:/path, tcp://host:port or tls://host:port")
    rest = rest.rstrip("/")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        host, port = rest, str(DEFAULT_PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) < 65536:
        raise ProtocolError(f"{text!r} is no address: a host and a port below 65536 are needed")
    return Address(scheme, host.strip("[]"), int(port))
