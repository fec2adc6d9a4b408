"""One function's containers and waiting inputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from intermodal.server.scheduler.capacity import Taken
from intermodal.server.scheduler.rules import Rules

STARTING, READY, STOPPING = "starting", "ready", "stopping"

PREFETCH_SECONDS = 0.010  # work that may wait inside a container
PREFETCH_INPUTS = 128  # inputs that may wait inside a container, at most
DRAIN_SECONDS = 0.5  # a queue of short inputs that is done within this time needs no more containers
OVERPROVISIONED_FACTOR = 0.25  # of the window, when most of the containers are idle
OVERPROVISIONED_IDLE = 4  # idle containers that are never too many
STALL_SECONDS = 0.05  # a container that has finished nothing for so long drains nothing: its input is no short one


class Share:
    """What one app has of the machines, all its functions together."""

    __slots__ = ("__weakref__", "containers", "forced_at")

    def __init__(self) -> None:
        self.containers = 0  # that start or are ready
        self.forced_at = float("-inf")  # when one of them last started without room, while another app had less


class Slot:
    """One container as the scheduler sees it."""

    __slots__ = (
        "checked_at",
        "drained",
        "id",
        "idle_since",
        "inputs",
        "lent",
        "pool",
        "served",
        "started_at",
        "state",
        "taken",
        "waiting",
        "waits_since",
        "worker_id",
    )

    def __init__(self, id: str, pool: Pool, worker_id: str, taken: Taken, now: float) -> None:
        self.id = id
        self.pool = pool
        self.worker_id = worker_id
        self.taken = taken  # what it reserves on its worker
        self.state = STARTING
        self.inputs: dict[Any, float] = {}  # input -> when it was assigned; in order of assignment
        self.served = 0  # inputs assigned in its life
        self.idle_since = now
        self.started_at = now
        self.drained = False  # ends when its inputs are done
        self.checked_at = now  # when its oldest input became the oldest
        self.waiting: dict[Any, int] = {}  # those of its inputs that wait for calls of their own, and for how many
        self.waits_since = 0.0  # since when all that it runs waits
        self.lent = False  # what it has reserved of the processors (see `loans`)

    @property
    def life_left(self) -> int:
        """Inputs it may still take before it is used up."""
        limit = self.pool.rules.max_inputs
        return limit - self.served if limit else 1 << 30


class Queue:
    """Waiting inputs in order. Any of them can be taken out at no cost that grows with the others."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: OrderedDict[Any, float] = OrderedDict()  # input -> since when it waits

    def extend(self, inputs: list[Any], now: float) -> None:
        """Behind all others."""
        items = self._items
        for item in inputs:
            items[item] = now

    def extend_front(self, inputs: list[Any], now: float) -> None:
        """Before all others, in this order."""
        items = self._items
        for item in reversed(inputs):
            items[item] = now
            items.move_to_end(item, last=False)

    def first_came(self) -> float:
        """Since when the first one waits."""
        return next(iter(self._items.values()))

    def take(self, count: int) -> list[Any]:
        """The first `count`, or as many as there are."""
        items = self._items
        if count >= len(items):
            taken = list(items)
            items.clear()
            return taken
        pop = items.popitem
        return [pop(False)[0] for _ in range(count)]

    def remove(self, item: Any) -> bool:
        """Whether it was there."""
        try:
            del self._items[item]
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Any:
        return iter(self._items)

    def __contains__(self, item: Any) -> bool:
        return item in self._items


class Pool:
    """The state of one function. `average` is the moving mean of its inputs' run time, None before the first."""

    __slots__ = (
        "active_until",
        "app_id",
        "assigned",
        "average",
        "backlog",
        "batch_due",
        "careful",
        "due",
        "function_id",
        "idle",
        "open",
        "queue",
        "ready",
        "replaces",
        "retired",
        "rules",
        "share",
        "slots",
        "stalled",
        "starting",
        "starts_after",
        "waits_since",
    )  # fmt: skip

    def __init__(self, function_id: str, app_id: str, rules: Rules, share: Share) -> None:
        self.function_id = function_id
        self.app_id = app_id
        self.share = share  # of its app
        self.rules = rules
        self.queue = Queue()
        self.slots: dict[str, Slot] = {}
        self.idle: dict[str, Slot] = {}  # ready and without inputs; the most recently used one is last
        self.open: dict[str, Slot] = {}  # ready, with inputs, and had room for more when last looked at
        self.starting = 0
        self.ready = 0
        self.assigned = 0  # inputs in containers
        self.average: float | None = None
        self.stalled = 0  # containers whose input runs for long, as of the last look
        self.retired = False  # replaced or removed: finishes what it has, takes nothing new
        self.active_until = float("-inf")  # when it last had inputs
        self.replaces: Pool | None = None  # of a candidate: the pool of the version in force
        self.backlog = 0  # inputs that wait elsewhere (on disk) and will be queued
        self.starts_after = 0.0  # no container starts before this instant
        self.waits_since = float("inf")  # when a container first found no room
        self.batch_due = 0.0  # when an unfilled batch must run; 0: none waits
        self.careful = False  # a container died and nobody knows under which input: give them one at a time
        self.due = float("inf")  # its entry in the agenda

    def learn(self, seconds: float) -> None:
        """An input took this long."""
        if self.average is None:
            self.average = seconds
        else:
            self.average += (seconds - self.average) * 0.2

    def depth(self) -> int:
        """Inputs that a container may hold: what it runs at once, and for short inputs some that wait in it."""
        rules = self.rules
        if rules.batch_size:
            return rules.batch_size
        if not rules.prefetch or rules.max_inputs or self.average is None or self.careful:
            return rules.limit
        waiting = int(PREFETCH_SECONDS / max(self.average, 1e-6))
        return rules.limit + min(PREFETCH_INPUTS, waiting)

    def low(self, depth: int) -> int:
        """With so many inputs or fewer, a container is worth filling: full batches cost less than many small ones."""
        return depth - 1 if self.rules.limit > 1 else depth // 2

    def is_active(self, now: float) -> bool:
        """Whether it has inputs, or had some within its window."""
        return self.assigned > 0 or len(self.queue) > 0 or now < self.active_until + self.rules.scaledown_window

    def wanted(self) -> int:
        """Containers that the inputs at hand call for, limits aside."""
        rules = self.rules
        per_container = rules.batch_size or rules.target
        inputs = len(self.queue) + self.assigned + self.backlog
        if not inputs:
            return 0
        wanted = -(-inputs // per_container)
        if self.has_short_inputs():
            # As many containers as drain the queue soon, not one for each input. Those that run a long one after
            # all (perhaps it waits for one of the queue) do not count.
            work = inputs * (self.average or 0.0) / rules.limit
            wanted = min(wanted, self.stalled + max(1, int(work / DRAIN_SECONDS) + 1))
        return wanted

    def desired(self) -> int:
        """Containers that the function shall have, its own limits considered."""
        rules = self.rules
        wanted = self.wanted()
        if self.retired:
            wanted = 0 if self.ready else wanted
        else:
            wanted = max(wanted + rules.buffer_containers if wanted else 0, rules.min_containers)
        return min(wanted, rules.max_containers) if rules.max_containers else wanted

    def window(self) -> float:
        """Seconds that an idle container of the function is kept."""
        if self.retired:
            return 0.0
        window = self.rules.scaledown_window
        if len(self.idle) > OVERPROVISIONED_IDLE and len(self.idle) > 0.75 * self.ready:
            return min(window, max(2.0, window * OVERPROVISIONED_FACTOR))
        return window

    def has_short_inputs(self) -> bool:
        """Whether inputs have taken so little time until now that a container each would be a waste."""
        return self.average is not None and not self.rules.batch_size and self.average < DRAIN_SECONDS / 10

    def look_for_stalled(self, now: float) -> None:
        """Count the containers that have finished nothing for a while."""
        at = now - STALL_SECONDS
        self.stalled = sum(bool(slot.inputs) and slot.checked_at <= at for slot in self.slots.values())
