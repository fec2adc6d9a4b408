"""Responses on the wire of HTTP/1.1: heads, and how a body is delimited."""

from __future__ import annotations

import re
import time
from email.utils import formatdate

from intermodal.server.gateway.pages import phrase

_BAD = re.compile(rb"[\r\n]")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te"))
_LINES = {
    (version, status): f"HTTP/1.1 {status} {phrase(status)}\r\n".encode()
    for version in ("1.0", "1.1")
    for status in range(100, 600)
}
_known: dict[bytes, bytes] = {}  # header names that were seen, in lower case


class BadResponse(Exception):
    """An app's response that cannot be sent."""


class _Clock:
    """The Date header, made once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._value = b""

    def value(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._value = formatdate(now, usegmt=True).encode()
        return self._value


_clock = _Clock()


class _Rules:
    """What holds for every response. `length` is what the body must have (-1: not said), `bodiless` whether there
    is none whatever the app says, `close` whether the app wants the connection to end.
    """

    __slots__ = ("bodiless", "close", "length")

    def _take(self, status: int, headers: bytes, method: str, whole: int, lowered: bool) -> list[tuple[bytes, bytes]]:
        """The fields to send; with `lowered` their names are in lower case. Raises BadResponse."""
        if not 200 <= status <= 599:
            raise BadResponse(f"{status} is no status of a response")
        if _BAD.search(headers):
            raise BadResponse("a header holds a line break")
        self.length = -1
        self.bodiless = method == "HEAD" or status in (204, 304)
        self.close = dated = False
        fields = []
        parts = headers.split(b"\0") if headers else []
        for name, value in zip(parts[::2], parts[1::2], strict=True):
            lower = _known.get(name) or _learn(name)
            if lower in _HOP:
                if lower == b"connection" and value.lower() == b"close":
                    self.close = True
                continue
            if lower == b"content-length":
                if status == 204:
                    continue
                self._take_length(value)
            elif lower == b"date":
                dated = True
            fields.append((lower if lowered else name, value.strip(b" \t")))
        if not dated:
            fields.append((b"date", _clock.value()))
        if whole >= 0 and self.length < 0 and not self.bodiless:
            self.length = whole
            fields.append((b"content-length", b"%d" % whole))
        return fields

    def _take_length(self, value: bytes) -> None:
        if not value.isdigit() or (self.length >= 0 and int(value) != self.length):
            raise BadResponse(f"its Content-Length {value[:40]!r} is no length, or one of two")
        self.length = int(value)


class StreamHead(_Rules):
    """A response's head for a client that speaks HTTP/2: its fields."""

    __slots__ = ("fields",)

    def __init__(self, status: int, headers: bytes, *, method: str, whole: int = -1) -> None:
        """`headers` NUL-separated; `whole`: the size of the body where all of it is there. Raises BadResponse."""
        self.fields = [(b":status", b"%d" % status), *self._take(status, headers, method, whole, lowered=True)]


class Head(_Rules):
    """A response's head for a client that speaks HTTP/1: its bytes, and how the body is to be sent.

    `chunked` is how a body without a length is delimited; the connection must end after one with `close`.
    """

    __slots__ = ("chunked", "data")

    def __init__(
        self, status: int, headers: bytes, *, method: str, version: str, keep_alive: bool, whole: int = -1
    ) -> None:
        """`headers` NUL-separated; `whole`: the size of the body where all of it is there. Raises BadResponse."""
        fields = self._take(status, headers, method, whole, lowered=False)
        if not keep_alive:
            self.close = True
        lines = [_LINES[version, status]]
        lines += [b"%b: %b\r\n" % field for field in fields]
        self.chunked = self.length < 0 and not self.bodiless and version == "1.1"
        if self.chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif self.length < 0 and not self.bodiless:
            self.close = True  # HTTP/1.0: the end of the connection is the end of the body
        if self.close:
            lines.append(b"connection: close\r\n")
        elif version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self.data = b"".join(lines)


def _learn(name: bytes) -> bytes:
    if not _TOKEN.match(name):
        raise BadResponse(f"{name[:40]!r} is no header name")
    lower = name.lower()
    if len(_known) < 1000:
        _known[name] = lower
    return lower


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
