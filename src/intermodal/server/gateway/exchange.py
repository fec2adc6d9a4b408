"""One request from its admission to the end of its input: between a client, the scheduler and a container."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from intermodal.server.gateway.routes import Route
from intermodal.server.inputs import Call, Held
from modal._protocol.errors import Code, ProtocolError
from modal._protocol.messages.call import CallFailure, Status, unpack_failure
from modal._protocol.messages.function import FunctionSpec
from modal._protocol.messages.web import GRANT

if TYPE_CHECKING:
    from intermodal.server.dispatch import Container
    from intermodal.server.gateway.gateway import Gateway
    from intermodal.server.gateway.request import Request

NEVER_RETRIED = 1 << 30  # a request is not sent again when its container dies under it


class Sink(Protocol):
    """Where a response goes: a client's connection, or the store of results that are fetched later."""

    def start(self, exchange: Exchange, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """The response begins. `headers` NUL-separated."""

    def data(self, exchange: Exchange, body: bytes, more: bool) -> None:
        """A further part of the body."""

    def refuse(self, exchange: Exchange, status: int, text: str) -> None:
        """The gateway's own answer; in the middle of a response: its end without a proper one."""

    def resume_request(self) -> None:
        """The container takes more of the request's body."""


class Carrier(Protocol):
    """The way to the container."""

    def send_body(self, exchange: Exchange, data: bytes, more: bool) -> None:
        """A part of the request's body."""

    def grant(self, exchange: Exchange, size: int) -> None:
        """The client has taken so many bytes of the response."""

    def gone(self, exchange: Exchange, reason: str, cancel: bool) -> None:
        """The client has left; or the input is to end at once."""


class WebCall(Call):
    """The call that stands for one request."""

    __slots__ = ("direct",)

    def __init__(self, id: str, function_id: str, app_id: str, exchange: Exchange) -> None:
        super().__init__(id, function_id, app_id, "web")
        self.direct = exchange  # type: ignore[misc]  # of the class it is None


class Exchange:
    """`Direct` of its input (see inputs.Direct); `sink` and `carrier` are its two ends."""

    __slots__ = (
        "_gateway",
        "began",
        "call",
        "carrier",
        "consumed",
        "container",
        "held",
        "input_over",
        "request",
        "responded",
        "response_over",
        "route",
        "running_since",
        "sent",
        "sink",
        "spec",
        "unsent_credit",
    )  # fmt: skip

    def __init__(self, gateway: Gateway, route: Route, spec: FunctionSpec, request: Request, sink: Sink) -> None:
        self._gateway = gateway
        self.route = route
        self.spec = spec
        self.request = request
        self.sink: Sink | None = sink
        self.call: WebCall
        self.held: Held
        self.carrier: Carrier | None = None
        self.container: Container | None = None
        self.began = time.monotonic()
        self.running_since = 0.0
        self.sent = 0  # bytes of the request's body that the container may not have taken yet
        self.consumed = 0  # bytes of the response that the client took and that are not granted yet
        self.responded = False  # the response has begun
        self.response_over = False
        self.input_over = False

    @property
    def token(self) -> int:
        """Its number in its container."""
        return self.held.token

    def begin(self, call_id: str) -> None:
        """Make it an input and let the scheduler have it."""
        self.call = call = WebCall(call_id, self.route.function_id, self.route.app_id, self)
        self.held = held = Held(call, 0, b"", "", self.route.method)
        held.crashes = NEVER_RETRIED
        call.inputs[0] = held

    # -- Direct: the scheduler's side
    def assigned(self, container: Container) -> None:
        """See inputs.Direct."""
        if self.sink is None:
            self.finish_input(None)
            return
        if self.container is not None and (self.responded or not self.request.complete or self.sent):
            # It was at work in a container that was stopped: what it has done there cannot be taken back.
            self.refuse(502, "The container that handled this request was stopped. Send the request again.")
            self.finish_input(None)
            return
        self.container = container
        self.running_since = time.monotonic()
        self._gateway.carry(self, container)

    def interrupt(self) -> None:
        """See inputs.Direct."""
        if self.carrier is not None:
            self.carrier.gone(self, "the input was cancelled", True)

    def ended(self, status: int, value: bytes) -> None:
        """See inputs.Direct."""
        self._gateway.forget(self)
        self.refuse(*explain(status, value, self.route.ephemeral))

    # -- the container's side
    def respond(self, status: int, headers: bytes, body: bytes, more: bool) -> None:
        """The app's response begins."""
        if self.responded:
            return
        self.responded = True
        self.response_over = not more
        if self.sink is not None:
            self.sink.start(self, status, headers, body, more)

    def respond_data(self, body: bytes, more: bool) -> None:
        """It goes on."""
        if not self.responded or self.response_over:
            return
        self.response_over = not more
        if self.sink is not None:
            self.sink.data(self, body, more)
        elif body:
            self.taken(len(body))  # nobody listens: let it run to its end

    def refuse(self, status: int, text: str) -> None:
        """The gateway answers in the container's place, or breaks a response off."""
        if self.response_over:
            return
        self.response_over = True
        if self.sink is not None:
            self.sink.refuse(self, status, text)
        self.responded = True

    def finish_input(self, seconds: float | None) -> None:
        """The container is done with it."""
        if not self.input_over:
            self.input_over = True
            self._gateway.completed(self, seconds)

    def request_taken(self, size: int) -> None:
        """The container has consumed so much of the request's body."""
        self.sent -= size
        if self.sink is not None:
            self.sink.resume_request()

    # -- the client's side
    def send_body(self, data: bytes, more: bool) -> None:
        """A part of the request's body has arrived."""
        if self.carrier is not None:
            self.sent += len(data)
            self.carrier.send_body(self, data, more)
        elif data:
            self.sent += len(data)  # so that the client is held up: a container may be long in coming
            self.request.parts.append(data)

    def taken(self, size: int) -> None:
        """The client has taken so much of the response."""
        self.consumed += size
        if self.consumed >= GRANT and self.carrier is not None:
            consumed, self.consumed = self.consumed, 0
            self.carrier.grant(self, consumed)

    def client_gone(self, reason: str = "the client went away") -> None:
        """Nobody waits for the response any more: the input is cancelled."""
        self.sink = None
        if self.input_over:
            return
        if self.carrier is not None:
            self.carrier.gone(self, reason, False)
        elif self.container is None:
            self._gateway.withdraw(self)


def explain(status: int, value: bytes, ephemeral: bool) -> tuple[int, str]:
    """Status code and text for an input that the platform has ended. The app's own words are for its developer."""
    try:
        failure = unpack_failure(value)
    except (ProtocolError, ValueError):
        failure = CallFailure(Code.INTERNAL, text="the request could not be carried out")
    reason = f"\n\n{failure.traceback or failure.text}\n{failure.hint}" if ephemeral else ""
    if status == Status.TIMEOUT:
        return 504, f"The function did not finish in time: {failure.text}."
    if status == Status.INIT_FAILURE:
        return 503, f"The function's container could not start.{reason or ' Its logs say why.'}"
    if status == Status.TERMINATED:
        return 503, f"The request was ended: {failure.text or 'it was cancelled'}."
    return 502, f"The container that handled this request ended.{reason or ' Its logs say why.'}"
