"""Requests from outside: gateway and runner, and how the two come to be connected.

A container that serves HTTP has a connection of its own to the gateway (docs/architecture.md). On it, ITEM
frames carry these messages; the frame's stream number is the exchange's token, which the scheduler's dispatch
has given. Header lists are names and values with a NUL between each two: neither can contain one.
"""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message

WINDOW = 1 << 20  # bytes of body that a side of an exchange may send before the other has granted more
GRANT = 1 << 18  # bytes consumed after which more is granted
PART = 1 << 18  # bytes of body in one message, at most
MESSAGE_LIMIT = 2 << 20  # bytes of a WebSocket message
LOCAL = "local:"  # how the ticket of a connection to one of LocalPorts begins


class WebRequest(Message, type=210):
    """Gateway to runner: an exchange begins. `more`: WebData follows."""

    input_id: str
    method_name: str  # of the class, "" for a function
    websocket: bool
    method: str
    scheme: str  # "http" or "https"
    http_version: str  # "1.1"
    client_host: str
    client_port: int
    server_host: str
    server_port: int
    root_path: str
    target: bytes  # path as it was sent, with root_path, without the query
    query: bytes
    headers: bytes
    body: bytes = b""
    more: bool = False


class WebData(Message, type=211):
    """A part of a body, in either direction. `done`, from the runner: the input is over."""

    body: bytes
    more: bool = True
    done: bool = False


class WebResponse(Message, type=212):
    """Runner to gateway: the response begins. `more`: WebData follows. `done`: the input is over."""

    status: int
    headers: bytes
    body: bytes = b""
    more: bool = False
    done: bool = False


class WebDone(Message, type=213):
    """Runner to gateway: the input is over (after the response: background tasks have ended)."""

    seconds: float = 0.0


class WebFailed(Message, type=214):
    """Runner to gateway: the app raised, or ended without a whole response. The input is over."""

    text: str
    traceback: str = ""


class WebCredit(Message, type=215):
    """So many bytes of body were consumed."""

    size: int


class WebGone(Message, type=216):
    """Gateway to runner: the client has left, or (`cancel`) the input is to end at once."""

    reason: str = ""
    cancel: bool = False


class WebAccept(Message, type=217):
    """Runner to gateway: the app accepts the WebSocket."""

    subprotocol: str = ""
    headers: bytes = b""


class WebMessage(Message, type=218):
    """One WebSocket message, in either direction."""

    data: bytes
    text: bool = False


class WebClose(Message, type=219):
    """The WebSocket is closed: by the client (gateway to runner), or by the app."""

    code: int = 1000
    reason: str = ""


class WebHandover(Message, type=220):
    """Worker to server, in one datagram with a descriptor: a container's connection.

    `ticket` "": a connection of its runner, in the `role` of its HELLO (runner-web, runner-express); `LOCAL` and a
    port: it was accepted there, see LocalPorts; else it is the answer to ContainerConnect with that ticket.
    """

    container_id: str
    ticket: str = ""
    role: str = "runner-web"


class ContainerConnect(Message, type=221):
    """Server to worker: a TCP connection to a port of a container, by WebHandover. Answered with Done.

    Faults: not-found (no such container), internal (`port` does not accept).
    """

    container_id: str
    port: int
    ticket: str


class LocalPorts(Message, type=460):
    """Server to worker: these ports of the server's loopback address are to be there in every container with a
    network. Connections to them come by WebHandover. Answered with Done when it is so."""

    ports: List[int]


def split_headers(data: bytes) -> list[tuple[bytes, bytes]]:
    """A header list: names and values in turn, with a NUL between any two."""
    if not data:
        return []
    parts = data.split(b"\0")
    return list(zip(parts[::2], parts[1::2]))
