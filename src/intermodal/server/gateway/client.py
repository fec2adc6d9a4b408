"""What the gateway asks of that by which a request came: a connection of HTTP/1.1, or a stream of HTTP/2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from intermodal.server.gateway.exchange import Exchange, Sink
from intermodal.server.gateway.request import Refusal, Request


class Raw(Protocol):
    """What a client speaks after an upgrade: bytes that come, and the state of its line."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def connection_lost(self) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Line(Protocol):
    """A client's bytes after an upgrade: all of a connection of HTTP/1.1, or one stream of HTTP/2."""

    writable: bool  # the client takes what is written

    @property
    def is_open(self) -> bool:
        """Whether anybody is there."""

    def switch(self, request: Request, fields: Sequence[tuple[bytes, bytes]], raw: Raw | None = None) -> None:
        """Say that the other protocol begins. With `raw`, that gets the bytes; else whoever gets them already."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def end(self, *, both: bool) -> None:
        """No more will be sent. `both`: nor is anything waited for."""

    def close(self) -> None:
        """End it, when all is sent."""

    def end_within(self, seconds: float, *, eof: bool = False) -> None:
        """End it: at once with 0, else when the other side does, or that time has passed."""

    def stop_reading(self) -> None:
        """Hold the client up."""

    def resume_reading(self) -> None:
        """Go on."""


class Client(Sink, Protocol):
    """The `Sink` of an exchange while its client waits for the response."""

    exchange: Exchange | None  # whose response goes to this client
    secure: bool  # it came by TLS
    peer: tuple[str, int]
    within: bool  # it came from a container of this machine, see LocalPorts

    @property
    def is_open(self) -> bool:
        """Whether anybody is there."""

    @property
    def is_raw(self) -> bool:
        """Whether it speaks, or waits to speak, another protocol than HTTP."""

    def be_websocket(self, exchange: Exchange) -> None:
        """The request at work asks for a WebSocket: what follows it belongs to that."""

    def hold_raw(self, request: Request) -> None:
        """The request asks for another protocol: keep what follows it until that has begun."""

    def expect_body(self, request: Request) -> None:
        """The request was accepted: the client may send its body."""

    def turn_away(self, refusal: Refusal) -> None:
        """A request that was looked at for a while gets the gateway's own answer."""

    def release(self) -> None:
        """The exchange's response will be fetched by another request."""


class Connection(Protocol):
    """A connection, as the gateway looks after it."""

    def look(self, now: float) -> None:
        """End what takes too long: called about once a second."""

    def shut(self) -> None:
        """The server ends."""
