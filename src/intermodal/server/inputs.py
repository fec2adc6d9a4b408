"""What the server holds of calls and inputs while they are under way."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from modal._protocol.aio import Connection, Stream
from modal._protocol.messages.worker import RunInputs

if TYPE_CHECKING:
    from intermodal.server.delivery import Output
    from intermodal.server.waits import Wait


class Direct(Protocol):
    """An input that reaches its container by another way than the container's stream (HTTP requests do)."""

    def assigned(self, container: Any) -> None:
        """It is that container's from now on: send it there. May come again, when that container is stopped."""

    def interrupt(self) -> None:
        """It shall end in its container."""

    def ended(self, status: int, value: bytes) -> None:
        """The platform has given it a final output."""


class Call:
    """A group of inputs under one id. `kind`: unary, map, generator, spawn or web."""

    direct: ClassVar[Direct | None] = None  # an attribute of each call of kind web

    __slots__ = (
        "app_id",
        "connection",
        "done",
        "function_id",
        "id",
        "inputs",
        "inputs_ended",
        "kept_bytes",
        "kind",
        "large_args",
        "over",
        "parent_input_id",
        "reply_id",
        "sent",
        "sent_bytes",
        "stream",
        "taken",
        "unsent",
        "unsent_bytes",
        "wait",
        "yielded",
    )  # fmt: skip

    def __init__(self, id: str, function_id: str, app_id: str, kind: str, parent_input_id: str = "") -> None:
        self.id = id
        self.function_id = function_id
        self.app_id = app_id
        self.kind = kind
        self.parent_input_id = parent_input_id
        self.inputs: dict[int, Held] = {}  # without a final output
        self.large_args: dict[int, str] = {}  # index -> value, until the output has arrived
        self.done = IndexSet()  # maps: indexes that have one
        self.connection: Connection | None = None
        self.stream: Stream | None = None
        self.reply_id = 0
        self.unsent: deque[Output] = deque()  # outputs that wait to be sent
        self.unsent_bytes = 0  # of generators: what these cost
        self.sent: deque[Output] = deque()  # outputs that may not have arrived
        self.sent_bytes = 0
        self.kept_bytes = 0  # what it costs to keep it after its end
        self.taken = 0  # outputs that have arrived since the call was opened on its connection
        self.inputs_ended = False
        self.over: asyncio.Future[None] | None = None
        self.wait: Wait | None = None  # of the input that has made the call, while it waits for it
        self.yielded = 0  # generators: the number of the item that is to come next

    def reply_to(self, connection: Connection, reply_id: int) -> None:
        self.connection = connection
        self.reply_id = reply_id

    def stream_to(self, connection: Connection, stream: Stream) -> None:
        self.connection = connection
        self.stream = stream

    def leave(self) -> None:
        """The connection need not remember the call any longer: nobody waits for it there."""
        if self.wait is not None:
            self.wait.end()
            self.wait = None
        followed = getattr(self.connection, "followed_calls", None)
        if followed is not None:
            followed.calls.pop(self.id, None)


class Held:
    """One input: compared by identity, so that the scheduler can keep it in dictionaries."""

    __slots__ = (
        "args",
        "attempts",
        "blob",
        "call",
        "container",
        "crashes",
        "deadline",
        "index",
        "method",
        "over",
        "parked",
        "paused_in",
        "retry",
        "token",
    )  # fmt: skip

    def __init__(self, call: Call, index: int, args: bytes, blob: str, method: str) -> None:
        self.call = call
        self.index = index
        self.args = args
        self.blob = blob
        self.method = method
        self.attempts = 0  # finished attempts that failed
        self.crashes = 0  # containers that died under it
        self.container: Any = None  # where it is
        self.token = 0  # its number there
        self.over = False  # has its final output
        self.deadline = 0.0  # monotonic; 0: does not run
        self.retry: asyncio.TimerHandle | None = None
        self.parked = False  # it is to run again, but its arguments must come first (see `fill`)
        self.paused_in: Any = None  # generators: the container that was told to wait with the next item

    @property
    def is_hollow(self) -> bool:
        """Known only by name, from a container that outlived the server: its arguments are not here."""
        return not self.args and not self.blob

    def fill(self, args: bytes, blob: str, method: str) -> bool:
        """Its arguments are here (again). True: it was waiting for them, and is to run now."""
        if self.is_hollow:
            self.args, self.blob, self.method = args, blob, method
        parked, self.parked = self.parked, False
        return parked and not self.over

    @property
    def input_id(self) -> str:
        return f"in-{self.call.id[3:]}-{self.index}"


class IndexSet:
    """A growing set of small integers that are mostly consecutive: flat memory for long maps."""

    __slots__ = ("_below", "_rest")

    def __init__(self) -> None:
        self._below = 0  # all indexes below this one are in the set
        self._rest: set[int] = set()

    def add(self, index: int) -> None:
        if index == self._below:
            self._below += 1
            rest = self._rest
            while self._below in rest:
                rest.discard(self._below)
                self._below += 1
        elif index > self._below:
            self._rest.add(index)

    def __contains__(self, index: int) -> bool:
        return index < self._below or index in self._rest


def run_inputs(batch: list[Held], together: int = 0) -> RunInputs:
    """What a container is sent of these. `together`: of a batched function, how many are one run."""
    blobs = [held.blob for held in batch]
    methods = [held.method for held in batch]
    return RunInputs(
        [held.token for held in batch],
        [held.input_id for held in batch],
        [held.args for held in batch],
        blobs if any(blobs) else [],
        methods if any(methods) else [],
        together,
    )


def split_input_id(input_id: str) -> tuple[str, int]:
    """The id of its call and its index there; ("", -1) for what is no input's id."""
    name, _, index = input_id.rpartition("-")
    return ("fc-" + name[3:], int(index)) if name.startswith("in-") and index.isdecimal() else ("", -1)
