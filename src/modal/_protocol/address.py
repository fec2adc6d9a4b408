"""Where a peer listens: `unix:/path`, `tcp://host:port`, `tls://host:port`."""

from __future__ import annotations

from typing import NamedTuple

from modal._protocol.errors import ProtocolError, Unreachable

DEFAULT_PORT = 7722
_SCHEMES = {"tcp": ("tcp", DEFAULT_PORT), "tls": ("tls", DEFAULT_PORT), "http": ("tcp", 80), "https": ("tls", 443)}
_NOT_IN_A_HOST = frozenset("/\\@?#[]:%\"'<>")


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
    """Raises ProtocolError with what is allowed. `http` and `https` mean `tcp` and `tls`, with their usual ports."""
    if text.startswith("unix:"):
        path = text[len("unix:") :]
        path = path[2:] if path.startswith("//") else path
        if not path.startswith("/") or "\0" in path:
            raise ProtocolError(
                f"{text!r}: a unix address needs an absolute path, like unix:/run/intermodal/server.sock"
            )
        return Address("unix", path)
    name, separator, rest = text.partition("://")
    if not separator or name not in _SCHEMES:
        raise ProtocolError(f"{text!r} is no address: use unix:/path, tcp://host:port or tls://host:port")
    scheme, port = _SCHEMES[name]
    rest = rest[:-1] if rest.endswith("/") else rest
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        good = bool(bracket) and ":" in host and not set(host.lower()) - set("0123456789abcdef:.")
    else:
        host, colon, after = rest.partition(":")
        after = colon + after
        good = bool(host) and not _NOT_IN_A_HOST & set(host) and host.isprintable() and " " not in host
    if after:
        digits = after[1:]
        good = good and after[0] == ":" and digits.isascii() and digits.isdigit() and len(digits) <= 5
        port = int(digits) if good else 0
    if not good or port > 65535:
        raise ProtocolError(f"{text!r} is no address: a host and a port below 65536 are needed")
    return Address(scheme, host, port)


def unreachable(where: Address, error: Exception) -> Unreachable:
    """What to raise when connecting failed with `error`."""
    if type(error).__module__ == "ssl":
        return Unreachable(f"no secure connection to {where}: {error}. Is its certificate trusted on this machine?")
    return Unreachable(f"nobody answers at {where}: {str(error) or 'timed out'}")
