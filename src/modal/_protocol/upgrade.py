"""The way from HTTP/1.1 to frames, so that one port serves both. No I/O here.

The connecting side sends `GET /_frames HTTP/1.1` with `Upgrade: intermodal/1`; the accepting side
answers `101 Switching Protocols`, and frames follow in both directions. Whatever else comes to the
port is HTTP for somebody else. Unix sockets need none of this: they speak frames from the start.
"""

from __future__ import annotations

from modal._protocol.address import Address
from modal._protocol.errors import ProtocolError, Unreachable
from modal._protocol.frames import Kind

PATH = "/_frames"
PROTOCOL = "intermodal/1"
MAX_HEAD = 16 * 1024  # bytes of an HTTP head
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: intermodal/1\r\n\r\n"
FRAMES, UPGRADE, HTTP, MORE = "frames", "upgrade", "http", "more"
_REQUEST_LINE = f"GET {PATH} HTTP/1.1\r\n".encode()
_END = b"\r\n\r\n"

NOTICE = (
    "This is an Intermodal server. Programs reach it with the modal package:\n"
    "set MODAL_SERVER_URL to this address, or server_url in ~/.modal.toml.\n"
)


def request_head(where: Address) -> bytes:
    """What the connecting side sends first."""
    host = f"[{where.host}]" if ":" in where.host else where.host
    return (
        f"GET {PATH} HTTP/1.1\r\nHost: {host}:{where.port}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    ).encode("ascii", "replace")


def read_answer(data: bytes, where: Address) -> int:
    """How many bytes the answer to the upgrade takes; 0: it is not complete. Raises Unreachable where it is refused."""
    end = data.find(_END)
    if end < 0:
        if len(data) > MAX_HEAD or not data.startswith(b"HTTP/1."[: len(data)]):
            raise Unreachable(f"{where} does not speak HTTP: is it an Intermodal server?")
        return 0
    words = data[:end].split(b"\r\n", 1)[0].split(b" ", 2)
    status = words[1].decode("latin-1") if len(words) > 1 else "?"
    if status != "101":
        raise Unreachable(
            f"{where} answered with HTTP status {status[:10]} instead of switching to frames: "
            "is it an Intermodal server? A proxy in between must pass Upgrade on."
        )
    return end + len(_END)


def classify(data: bytes) -> tuple[str, int]:
    """What the first bytes on an accepted connection are, and where frames begin in them.

    FRAMES: frames without HTTP. UPGRADE: an upgrade that is to be accepted. HTTP: something else,
    for the HTTP side. MORE: not decided yet. Raises ProtocolError for an upgrade that cannot be served.
    """
    if not data:
        return MORE, 0
    if data[0] == Kind.HELLO:  # no method of HTTP begins like that
        return FRAMES, 0
    if not data.startswith(_REQUEST_LINE[: len(data)]):
        return HTTP, 0
    end = data.find(_END)
    if end < 0:
        if len(data) > MAX_HEAD:
            raise ProtocolError("the head of the request is too long")
        return MORE, 0
    wanted = _header(data[len(_REQUEST_LINE) : end], b"upgrade")
    if not wanted:
        return HTTP, 0
    if PROTOCOL not in [part.strip() for part in wanted.split(",")]:
        raise ProtocolError(f"this server speaks {PROTOCOL}, not {wanted[:40]}: install the same version on both sides")
    return UPGRADE, end + len(_END)


def _header(head: bytes, name: bytes) -> str:
    for line in head.split(b"\r\n"):
        key, _colon, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().lower().decode("latin-1")
    return ""


def plain_answer(status: str, text: str) -> bytes:
    """A whole HTTP/1.1 response, after which the connection ends."""
    body = text.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body
