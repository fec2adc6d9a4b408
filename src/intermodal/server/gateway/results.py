"""Responses that take longer than a request may: a 303 sends the client to the result's own URL.

The result URL is the original one with a query parameter that names the call. It can be loaded again and again;
the app hears nothing of that (guide page "Request timeouts").
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from intermodal.server.gateway.pages import page
from intermodal.server.gateway.request import Refusal, Request

if TYPE_CHECKING:
    from intermodal.server.gateway.client import Client
    from intermodal.server.gateway.exchange import Exchange

PARAMETER = b"__modal_function_call_id"
KEPT_SECONDS = 600.0  # that a result can be loaded again after it was complete
KEPT_BYTES = 16 << 20  # of one result; a larger one can be loaded once
TOTAL_BYTES = 256 << 20  # of all results that are complete
TEXT = b"content-type\0text/plain; charset=utf-8"


def call_in(query: bytes) -> str:
    """The call that a result URL names, "" for any other URL."""
    if PARAMETER not in query:
        return ""
    for part in query.split(b"&"):
        name, _mark, value = part.partition(b"=")
        if name == PARAMETER:
            return value.decode("latin-1")
    return ""


def result_url(request: Request, call_id: str) -> bytes:
    """Path and query of a request's result."""
    rest = [part for part in request.query.split(b"&") if part and not part.startswith(PARAMETER + b"=")]
    return request.path + b"?" + b"&".join([*rest, PARAMETER + b"=" + call_id.encode()])


class Result:
    """The `Sink` of an exchange whose client was sent to the result's URL."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.status = 0  # 0: the response has not begun
        self.over_at = 0.0
        self.headers = b""
        self.parts: list[bytes] = []
        self.size = 0
        self.broken = False
        self.dropped = False  # its beginning is gone: it was too large to be kept
        self.fetches: list[Fetch] = []

    # -- Sink
    def start(self, exchange: Exchange, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        self.status, self.headers = status, headers
        self.data(exchange, body, more)

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if not more:
            self.over_at = time.monotonic()
        if body and not self.dropped:
            self.parts.append(body)
            self.size += len(body)
        for fetch in list(self.fetches):
            fetch.go_on()
        if self.size <= KEPT_BYTES:
            exchange.taken(len(body))
        elif self.fetches:
            self.dropped = True  # the one that listens gets the rest; nobody else will
            self.parts, self.size = [], KEPT_BYTES + 1

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """See exchange.Sink."""
        self.over_at = time.monotonic()
        if self.status:
            self.broken = True
        else:
            self.status, self.headers = status, TEXT
            self.parts = [page(status, text)]
            self.size = len(self.parts[0])
        for fetch in list(self.fetches):
            fetch.go_on()

    def resume_request(self) -> None:
        """See exchange.Sink: the request was complete before."""


class Fetch:
    """One request for a result: what an exchange is to its client's connection."""

    def __init__(self, result: Result, connection: Client, request: Request) -> None:
        self.result = result
        self.request = request
        self.connection: Client | None = connection
        self.since = time.monotonic()
        self.sink: object = connection
        self.sent = 0
        self.responded = False
        self.response_over = False
        self._next = 0  # part that is sent next

    def go_on(self) -> None:
        """Send what there is."""
        result, connection = self.result, self.connection
        if connection is None or not result.status:
            return
        if not self.responded:
            self.responded = True
            if result.over_at and not result.broken:
                self._leave()
                connection.start(self, result.status, result.headers, b"".join(result.parts), False)  # type: ignore[arg-type]
                return
            connection.start(self, result.status, result.headers, b"", True)  # type: ignore[arg-type]
        parts, self._next = result.parts[self._next :], len(result.parts)
        if result.broken:
            self._leave()
            connection.refuse(self, 502, "the response broke off")  # type: ignore[arg-type]
            return
        for part in parts:
            connection.data(self, part, True)  # type: ignore[arg-type]
        if result.dropped or result.size > KEPT_BYTES:
            self._next = 0
        if result.over_at:
            self._leave()
            connection.data(self, b"", False)  # type: ignore[arg-type]

    def _leave(self) -> None:
        self.response_over = True
        self.connection = None
        if self in self.result.fetches:
            self.result.fetches.remove(self)

    # -- what a connection asks of an exchange
    def taken(self, size: int) -> None:
        """The client has taken so much."""
        if self.result.size > KEPT_BYTES:
            self.result.exchange.taken(size)

    def send_body(self, data: bytes, more: bool) -> None:
        """A body that nobody reads."""

    def client_gone(self, reason: str = "") -> None:
        """The client left: the result is still there for another request."""
        self._leave()


class Results:
    """All results that can be fetched."""

    def __init__(self, patience: float) -> None:
        """`patience`: seconds that a request may wait."""
        self._patience = patience
        self._results: dict[str, Result] = {}

    def detach(self, exchange: Exchange, connection: Client) -> None:
        """The response will be fetched: tell the client where."""
        result = self._results[exchange.call.id] = Result(exchange)
        exchange.sink = result
        self._redirect(connection, exchange.request, exchange.call.id)

    def _redirect(self, connection: Client, request: Request, call_id: str) -> None:
        connection.release()
        where = result_url(request, call_id)
        text = "The function is still at work. Its result will be at the address in the Location header."
        connection.turn_away(Refusal(303, text, headers=((b"location", where), (b"cache-control", b"no-store"))))

    def fetch(self, connection: Client, request: Request, call_id: str, app_id: str) -> None:
        """Answer a request for a result. Raises Refusal where there is none."""
        result = self._results.get(call_id)
        if result is None or result.exchange.call.app_id != app_id or result.dropped:
            raise Refusal(404, "There is no such result: it was fetched long ago, or the server was restarted.")
        fetch = Fetch(result, connection, request)
        connection.exchange = fetch  # type: ignore[assignment]
        result.fetches.append(fetch)
        fetch.go_on()

    def look(self, now: float) -> None:
        """Let go of what waited long enough, and of results that nobody will fetch."""
        total = 0
        for call_id, result in reversed(list(self._results.items())):
            for fetch in list(result.fetches):
                if not fetch.responded and now - fetch.since >= self._patience and fetch.connection is not None:
                    connection = fetch.connection
                    fetch.client_gone()
                    self._redirect(connection, fetch.request, call_id)
            if result.over_at and not result.fetches:
                total += result.size
                if now - result.over_at > KEPT_SECONDS or total > TOTAL_BYTES or result.dropped:
                    del self._results[call_id]
