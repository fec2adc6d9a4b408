"""What the gateway asks of that by which a request came: a connection of HTTP/1.1, or a stream of HTTP/2."""

from __future__ import annotations

from typing import Protocol

from intermodal.server.gateway.exchange import Exchange, Sink
from intermodal.server.gateway.request import Refusal, Request


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
