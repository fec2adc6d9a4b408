"""Responses that take longer than a request may: a 303 sends the client to the result's own URL.

The result URL is the original one with a query parameter that names the call. It can be loaded again and again, also
after the server was restarted; the app hears nothing of that (guide page "Request timeouts").
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.server.gateway.kept import BROKEN, RUNNING, WHOLE, CannotKeepError, Kept, found_in, outdated
from intermodal.server.gateway.pages import page
from intermodal.server.gateway.request import Refusal, Request
from modal._protocol.messages.web import PART, WINDOW

if TYPE_CHECKING:
    from intermodal.server.gateway.client import Client
    from intermodal.server.gateway.exchange import Exchange

log = logging.getLogger("intermodal.gateway")

PARAMETER = b"__modal_function_call_id"
SWEEP_SECONDS = 30.0  # between looks for results that are kept no longer
TEXT = b"content-type\0text/plain; charset=utf-8"
LOST = "The server was restarted while the function was at work on this request. Send the request again."


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
    """The `Sink` of an exchange whose client was sent to the result's URL; afterwards what is left of it."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.fetches: list[Fetch] = []

    # -- Sink
    def start(self, exchange: Exchange, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        self.kept.status, self.kept.headers = status, headers
        self.data(exchange, body, more)

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """See exchange.Sink."""
        if self.kept.state != RUNNING:
            return
        try:
            if body:
                self.kept.append(body)
        except CannotKeepError as error:
            log.warning("the result %s cannot be kept: %s", self.kept.call_id, error)
            exchange.client_gone(str(error))
            self._break(507, f"The result cannot be kept: {error}.")
            return
        if body:
            exchange.taken(len(body))
        if not more:
            self._end(WHOLE)
        self._tell()

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """See exchange.Sink."""
        if self.kept.state == RUNNING:
            self._break(status, text)

    def _break(self, status: int, text: str) -> None:
        """The rest will not come; where nothing has come, the gateway's own answer is the result."""
        if self.kept.status:
            self._end(BROKEN)
        else:
            self.kept.status, self.kept.headers = status, TEXT
            try:
                self.kept.append(page(status, text))
                self._end(WHOLE)
            except CannotKeepError:
                self._end(BROKEN)
        self._tell()

    def _end(self, state: str) -> None:
        try:
            self.kept.end(state)
        except OSError as error:
            log.warning("the result %s will not outlive this server: %s", self.kept.call_id, error)

    def _tell(self) -> None:
        for fetch in list(self.fetches):
            fetch.go_on()
        if self.kept.state != RUNNING and not self.fetches:
            self.kept.rest()

    def resume_request(self) -> None:
        """See exchange.Sink: the request was complete before."""

    def leave(self, fetch: Fetch) -> None:
        """One that fetches it is done."""
        if fetch in self.fetches:
            self.fetches.remove(fetch)
        if self.kept.state != RUNNING and not self.fetches:
            self.kept.rest()


class Fetch:
    """One request for a result: what an exchange is to its client."""

    def __init__(self, result: Result, client: Client, request: Request) -> None:
        self.result = result
        self.request = request
        self.client: Client | None = client
        self.since = time.monotonic()
        self.sink: object = client
        self.sent = 0  # of the request's body: what an exchange has
        self.responded = False
        self.response_over = False
        self._at = 0  # bytes of the result that were sent
        self._untaken = 0  # of these, what the client may not have taken
        self._busy = False

    def go_on(self) -> None:
        """Send what there is and the client takes."""
        kept = self.result.kept
        if self._busy or self.client is None or not kept.status:
            return
        self._busy = True
        try:
            self._send(kept)
        except OSError as error:
            log.warning("the result %s cannot be read: %s", kept.call_id, error)
            self._refuse("The result cannot be read any more.")
        finally:
            self._busy = False

    def _send(self, kept: Kept) -> None:
        if not self.responded:
            self.responded = True
            if kept.state == WHOLE and kept.size <= PART:
                self._finish(kept, kept.read(0, kept.size))
                return
            self._call("start", kept.status, kept.headers, b"", True)
        while self.client is not None and self._untaken < WINDOW:
            part = kept.read(self._at, PART)
            if not part:
                break
            self._at += len(part)
            self._untaken += len(part)
            self._call("data", part, True)
        if self._at < kept.size or self.client is None:
            return
        if kept.state == WHOLE:
            client = self._leave()
            client.data(self, b"", False)  # type: ignore[arg-type]
        elif kept.state == BROKEN:
            self._refuse("the response broke off")

    def _finish(self, kept: Kept, body: bytes) -> None:
        client = self._leave()
        client.start(self, kept.status, kept.headers, body, False)  # type: ignore[arg-type]

    def _call(self, name: str, *arguments: object) -> None:
        getattr(self.client, name)(self, *arguments)

    def _refuse(self, text: str) -> None:
        if self.client is not None:
            client = self._leave()
            client.refuse(self, 502, text)  # type: ignore[arg-type]

    def _leave(self) -> Client:
        client, self.client = self.client, None
        assert client is not None
        self.response_over = True
        self.result.leave(self)
        return client

    # -- what a client asks of an exchange
    def taken(self, size: int) -> None:
        """The client has taken so much."""
        self._untaken -= size
        if self._untaken <= WINDOW // 2:
            self.go_on()

    def send_body(self, data: bytes, more: bool) -> None:
        """A body that nobody reads."""

    def client_gone(self, reason: str = "") -> None:
        """The client left: the result is still there for another request."""
        if self.client is not None:
            self._leave()


class Results:
    """All results that can be fetched. `open` finds those of an earlier server."""

    def __init__(self, directory: Path, patience: float) -> None:
        """`patience`: seconds that a request may wait."""
        self._directory = directory
        self._patience = patience
        self._results: dict[str, Result] = {}
        self._swept = 0.0

    def open(self) -> None:
        """Take over what is there."""
        if self._directory.is_dir():
            for kept in found_in(self._directory):
                self._results[kept.call_id] = Result(kept)

    def close(self) -> None:
        """The server ends: what is complete stays."""
        for result in self._results.values():
            result.kept.rest()

    def detach(self, exchange: Exchange, client: Client) -> None:
        """The response will be fetched: tell the client where."""
        call = exchange.call
        kept = Kept(self._directory, call.id, call.app_id)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            kept.begin()
        except OSError as error:
            log.warning("results cannot be kept in %s: %s", self._directory, error)
        result = self._results[call.id] = Result(kept)
        exchange.sink = result
        self._redirect(client, exchange.request, call.id)

    def _redirect(self, client: Client, request: Request, call_id: str) -> None:
        client.release()
        where = result_url(request, call_id)
        text = "The function is still at work. Its result will be at the address in the Location header."
        client.turn_away(Refusal(303, text, headers=((b"location", where), (b"cache-control", b"no-store"))))

    def fetch(self, client: Client, request: Request, call_id: str, app_id: str) -> None:
        """Answer a request for a result. Raises Refusal where there is none."""
        result = self._results.get(call_id)
        if result is None or result.kept.app_id != app_id:
            raise Refusal(404, "There is no such result, or it was kept for a day and is gone.")
        if result.kept.state == BROKEN and not result.kept.status:
            raise Refusal(502, LOST)
        fetch = Fetch(result, client, request)
        client.exchange = fetch  # type: ignore[assignment]
        result.fetches.append(fetch)
        fetch.go_on()

    def look(self, now: float) -> None:
        """Let go of what waited long enough, and of results that nobody will fetch."""
        for call_id, result in self._results.items():
            for fetch in list(result.fetches):
                if not fetch.responded and now - fetch.since >= self._patience and fetch.client is not None:
                    client = fetch.client
                    fetch.client_gone()
                    self._redirect(client, fetch.request, call_id)
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            over = [one.kept for one in self._results.values() if one.kept.state != RUNNING and not one.fetches]
            for kept in outdated(over):
                del self._results[kept.call_id]
                kept.forget()
