"""Functions and containers as the hot path knows them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from intermodal.server.failures import CrashLoop
from intermodal.server.inputs import Held
from intermodal.server.scheduler import Pool
from modal._protocol.messages.call import CallFailure
from modal._protocol.messages.function import FunctionSpec

if TYPE_CHECKING:
    from intermodal.server.express import ExpressLink

UNSAFE_FRAMES = 2048  # frames behind an output that has not arrived, beyond which they are acknowledged


class Function:
    """A function as the hot path knows it."""

    __slots__ = ("app_id", "crashes", "ephemeral", "ever_ready", "function_id", "generation", "name", "pool", "spec")

    def __init__(self, function_id: str, app_id: str, spec: FunctionSpec, pool: Pool, ephemeral: bool) -> None:
        self.function_id = function_id
        self.app_id = app_id
        self.name = spec.name
        self.spec = spec
        self.pool = pool
        self.ephemeral = ephemeral
        self.crashes = CrashLoop()
        self.ever_ready = False
        self.generation = 0  # grows when the function is published again in another form

    def another(self, spec: FunctionSpec) -> Function:
        """The same function in another version, with a record of failures of its own."""
        return Function(self.function_id, self.app_id, spec, self.pool, self.ephemeral)

    def take_over(self, newer: Function) -> None:
        """Become the newer version, which has been warmed up."""
        self.spec, self.name, self.ephemeral = newer.spec, newer.name, newer.ephemeral
        self.crashes, self.ever_ready = newer.crashes, newer.ever_ready
        self.generation += 1


class Container:
    """A container from the decision to start it until its end."""

    __slots__ = (
        "asked",
        "asked_to_cancel",
        "cancelled",
        "devices",
        "end_order",
        "express",
        "failure",
        "frames",
        "function",
        "generation",
        "id",
        "known_frames",
        "link",
        "lost_inputs",
        "marks",
        "next_token",
        "orphaned",
        "quick",
        "ready",
        "round",
        "running_since",
        "started_at",
        "state",
        "stop_reason",
        "tokens",
        "undurable",
        "unsafe",
        "worker_id",
    )  # fmt: skip

    def __init__(self, id: str, function: Function, worker_id: str) -> None:
        self.id = id
        self.function = function
        self.worker_id = worker_id
        self.devices: tuple[str, ...] = ()  # GPUs of the worker that are its own
        self.link: Any = None  # worker_links.ContainerLink, once the worker was asked
        self.express: ExpressLink | None = None  # the short way to it, where it has one
        self.quick = 0  # inputs that it has answered at once, one after the other
        self.tokens: dict[int, Held] = {}
        self.next_token = 1
        self.ready = False
        self.asked = False  # the worker was told to start it
        self.orphaned = False  # it has outlived a worker, or the way to it
        self.running_since = 0.0  # monotonic: when the oldest input became the oldest
        self.frames = 0  # RunOutputs frames taken in
        self.state = "starting"
        self.started_at = time.time()
        self.cancelled: dict[int, float] = {}  # token -> when the runner was told
        self.asked_to_cancel = False  # it was told so at least once
        self.failure: CallFailure | None = None
        self.marks: dict[str, float] = {}
        self.stop_reason = ""
        self.end_order: tuple[float, str] | None = None  # its worker shall end it: grace in seconds, and why
        self.undurable: list[int] = []  # RunOutputs frames whose spawned outputs are not on disk yet
        self.unsafe: dict[int, int] = {}  # RunOutputs frame -> its outputs that have not reached their clients
        self.known_frames = 0  # RunOutputs frames that a worker sends again and that were taken in before
        self.generation = function.generation
        self.round = function.crashes.round  # of its function's failures, when it was started
        self.lost_inputs: list[Held] = []  # sent while the worker was away: to be sent again

    def safe_frames(self) -> int:
        """RunOutputs frames that nobody needs to keep: the outputs in them are on disk or with their clients.

        A client that takes its time must not make the others' answers pile up: beyond a bound the server's own
        memory has to do for it.
        """
        safe = self.frames
        if self.unsafe:
            safe = max(next(iter(self.unsafe)) - 1, safe - UNSAFE_FRAMES)
        return min(safe, self.undurable[0] - 1) if self.undurable else safe
