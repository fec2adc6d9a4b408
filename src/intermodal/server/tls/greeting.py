"""What a client's TLS greeting (ClientHello, RFC 8446 4.1.2) asks for, read before TLS begins."""

from __future__ import annotations

from typing import NamedTuple

LIMIT = 64 << 10  # bytes of a greeting
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _PROTOCOLS = 0, 16


class Greeting(NamedTuple):
    """`name`: in lower case, "" where none was said."""

    name: str
    protocols: tuple[str, ...]  # of ALPN


class Short(Exception):
    """So many bytes are needed from the beginning, at least."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


def parse(data: bytes) -> Greeting:
    """Of the first bytes of a connection. Raises Short, and ValueError where they are no greeting."""
    message, at = b"", 0
    while True:
        if len(data) < at + 5:
            if data[at : at + 1] not in (b"", bytes((_HANDSHAKE,))):
                raise ValueError("no TLS")
            raise Short(at + 5)
        size = int.from_bytes(data[at + 3 : at + 5])
        if data[at] != _HANDSHAKE or data[at + 1] != 3 or not 0 < size <= 1 << 14:
            raise ValueError("no TLS")
        if len(data) < at + 5 + size:
            raise Short(at + 5 + size)
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if message[0] != _CLIENT_HELLO:
            raise ValueError("no greeting")
        if len(message) >= 4:
            length = 4 + int.from_bytes(message[1:4])
            if length > LIMIT:
                raise ValueError("the greeting is too long")
            if len(message) >= length:
                return _hello(_Reader(message[4:length]))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ValueError("the greeting ends early")
        self._at += size
        return self._data[self._at - size : self._at]

    def vector(self, width: int) -> bytes:
        """As many bytes as a number of `width` bytes says."""
        return self.take(int.from_bytes(self.take(width)))


def _hello(hello: _Reader) -> Greeting:
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session
    hello.vector(2)  # ciphers
    hello.vector(1)  # compression
    name = ""
    protocols: tuple[str, ...] = ()
    extensions = _Reader(hello.vector(2) if hello.left else b"")
    while extensions.left:
        kind = int.from_bytes(extensions.take(2))
        content = _Reader(extensions.vector(2))
        if kind == _SERVER_NAME and content.left:
            name = _name(_Reader(content.vector(2)))
        elif kind == _PROTOCOLS:
            protocols = _protocols(_Reader(content.vector(2)))
    return Greeting(name, protocols)


def _name(names: _Reader) -> str:
    while names.left:
        kind, value = names.take(1), names.vector(2)
        if kind == b"\0":
            return value.decode("ascii").lower().rstrip(".")
    return ""


def _protocols(names: _Reader) -> tuple[str, ...]:
    found = []
    while names.left:
        found.append(names.vector(1).decode("latin-1"))
    return tuple(found)
