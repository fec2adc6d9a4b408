"""One request's head as it came, and what of it the gateway refuses."""

from __future__ import annotations

import re

_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Za-z:.]+\])(?::[0-9]{0,10})?\Z")


class Refusal(Exception):
    """The gateway answers the request itself, with this status and text. `close`: nothing can follow.

    `body`: instead of a page that says the text.
    """

    def __init__(
        self,
        status: int,
        text: str,
        *,
        close: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes = b"",
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.close = close
        self.headers = headers
        self.body = body


class Request:
    """Filled by the parser, header by header."""

    __slots__ = (
        "chunked", "client", "client_port", "complete", "connection", "content_length", "dispatched", "expect",
        "flat", "host", "keep_alive", "method", "parts", "path", "query", "received", "root_path", "scheme", "target",
        "upgrade", "version", "websocket_key",
    )  # fmt: skip

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.flat: list[bytes] = []  # names in lower case and values, in turn
        self.host = b""
        self.content_length = -1
        self.chunked = False
        self.connection = b""
        self.upgrade = b""
        self.expect = False
        self.websocket_key = b""
        self.keep_alive = True
        self.path = b""
        self.query = b""
        self.root_path = ""
        self.scheme = "http"
        self.client = ""
        self.client_port = 0
        self.parts: list[bytes] = []  # of the body, not taken yet
        self.received = 0  # bytes of the body so far
        self.complete = False  # all of it is here
        self.dispatched = False

    @property
    def is_websocket(self) -> bool:
        return self.upgrade == b"websocket" and b"upgrade" in _tokens(self.connection)

    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(zip(self.flat[::2], self.flat[1::2], strict=True))

    def take_body(self) -> bytes:
        """What of the body has arrived and was not taken."""
        parts = self.parts
        if not parts:
            return b""
        self.parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def check(self, version: str) -> None:
        """All headers are there: find what routing and framing need. Raises Refusal."""
        self.version = version
        if version not in ("2", "1.1", "1.0"):
            raise Refusal(505, f"HTTP/{version} is not spoken here: use HTTP/1.1", close=True)
        hosts = 0
        for name, value in zip(self.flat[::2], self.flat[1::2], strict=True):
            take = _TAKERS.get(name)
            if take is not None:
                if name == b"host":
                    hosts += 1
                take(self, value)
        if hosts > 1 or (not hosts and version != "1.0"):
            raise Refusal(400, "a request needs exactly one Host header", close=True)
        if self.chunked and version == "1.0":
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding", close=True)
        if self.method == "CONNECT":
            raise Refusal(405, "CONNECT is not served here", close=True)
        self._split_target()
        if self.host and not _HOST.match(self.host):
            raise Refusal(400, "the Host header is no host name", close=True)

    def _split_target(self) -> None:
        target = self.target
        if not target.startswith(b"/"):
            scheme, mark, rest = target.partition(b"://")
            if target == b"*" and self.method == "OPTIONS":
                rest, mark = b"", b""
            elif not mark or scheme.lower() not in (b"http", b"https"):
                raise Refusal(400, "the request's target is neither a path nor an http URL", close=True)
            else:  # absolute form: its authority stands above the Host header
                at = min((i for i in (rest.find(b"/"), rest.find(b"?")) if i >= 0), default=len(rest))
                self.host, target = rest[:at], rest[at:]
                if not self.host or b"@" in self.host:
                    raise Refusal(400, "the request's target has no host name", close=True)
                if not target.startswith(b"/"):
                    target = b"/" + target
        self.path, _mark, self.query = target.partition(b"?")
        self.query = self.query.partition(b"#")[0]

    # -- single headers
    def _take_host(self, value: bytes) -> None:
        self.host = value

    def _take_length(self, value: bytes) -> None:
        if not value.isdigit():  # HTTP/1.1's parser has checked it, HTTP/2's only that Python reads a number
            raise Refusal(400, "the Content-Length is none", close=True)
        self.content_length = int(value)

    def _take_encoding(self, value: bytes) -> None:
        if value.strip().lower() != b"chunked":
            raise Refusal(501, "the only Transfer-Encoding that is understood is chunked", close=True)
        self.chunked = True

    def _take_connection(self, value: bytes) -> None:
        self.connection = self.connection + b"," + value.lower() if self.connection else value.lower()

    def _take_upgrade(self, value: bytes) -> None:
        self.upgrade = value.strip().lower()

    def _take_expect(self, value: bytes) -> None:
        if value.strip().lower() != b"100-continue":
            raise Refusal(417, "the only expectation that can be met is 100-continue", close=True)
        self.expect = self.version != "1.0"

    def _take_key(self, value: bytes) -> None:
        self.websocket_key = value.strip()


def _tokens(value: bytes) -> list[bytes]:
    return [part.strip() for part in value.split(b",")]


_TAKERS = {
    b"host": Request._take_host,
    b"content-length": Request._take_length,
    b"transfer-encoding": Request._take_encoding,
    b"connection": Request._take_connection,
    b"upgrade": Request._take_upgrade,
    b"expect": Request._take_expect,
    b"sec-websocket-key": Request._take_key,
}
