"""Containers as they behave, without any: carries out what the scheduler decides, and checks that it can be done."""

from __future__ import annotations

import itertools
from typing import Any

from intermodal.server.scheduler import Assign, Capacity, GiveUp, Recall, Refuse, Request, Rules, Scheduler, Start, Stop


class Box:
    """One container: `inputs` in order; the first `limit` of them run."""

    def __init__(self, id: str, function_id: str, worker_id: str, devices: tuple[str, ...] = ()) -> None:
        self.id = id
        self.function_id = function_id
        self.worker_id = worker_id
        self.devices = devices
        self.ready = False
        self.stopping = False
        self.inputs: list[Any] = []
        self.recalled: list[Any] = []
        self.batches: list[list[Any]] = []


class World:
    """A scheduler on a clock that the test moves."""

    def __init__(self, cpus: float = 4.0, memory: int = 64000, gpus: str = "", workers: int = 1) -> None:
        numbers = itertools.count(1)
        self.scheduler = Scheduler(lambda: f"ta-{next(numbers)}", Capacity(1.0))
        for number in range(workers):
            devices = {f"GPU-{number}-{index}": kind for index, kind in enumerate(gpus.split())}
            self.scheduler.capacity.add(f"wo-{number}", cpus, memory, devices)
        self.now = 1000.0
        self.boxes: dict[str, Box] = {}
        self.stopped: list[tuple[str, str]] = []
        self.given_up: list[Any] = []
        self.refused: list[tuple[Any, str]] = []
        self.finished: list[Any] = []
        self.started: list[str] = []
        self._names = itertools.count(1)

    # -- what the test does
    def function(self, function_id: str = "f", app_id: str = "ap-1", **rules: Any) -> None:
        rules.setdefault("request", Request(0.1, 100))
        self.scheduler.put_function(function_id, app_id, Rules(**rules), self.now)
        self.obey()

    def send(self, count: int = 1, function_id: str = "f") -> list[str]:
        inputs = [f"{function_id}{next(self._names)}" for _ in range(count)]
        self.scheduler.enqueue(function_id, inputs, self.now)
        self.obey()
        return inputs

    def ready(self, box_id: str | None = None) -> None:
        """One container, or all, become ready."""
        for box in list(self.boxes.values()):
            if not box.ready and box_id in (None, box.id):
                box.ready = True
                self.scheduler.container_ready(box.id, self.now)
                self.obey()

    def finish(self, box: Box, count: int = 1, seconds: float | None = None) -> list[Any]:
        """The container's first inputs end."""
        done = [box.inputs.pop(0) for _ in range(min(count, len(box.inputs)))]
        self.finished += done
        self.scheduler.finished(box.id, done, self.now, seconds)
        self.obey()
        return done

    def waits(self, box: Box, item: Any) -> None:
        """An input of the container waits for a call that it has made."""
        self.scheduler.waits(box.id, item, self.now)

    def goes_on(self, box: Box, item: Any) -> None:
        """That call is over."""
        self.scheduler.goes_on(box.id, item, self.now)

    def die(self, box: Box) -> list[Any]:
        del self.boxes[box.id]
        held = self.scheduler.container_gone(box.id, self.now)
        assert held == box.inputs
        self.obey()
        return held

    def pass_time(self, seconds: float) -> None:
        """Tick whenever the scheduler has asked for it."""
        until = self.now + seconds
        for _ in range(10000):
            due = self.scheduler.due
            if due > until:
                self.now = until
                return
            self.now = max(self.now, due)
            self.scheduler.tick(self.now)
            self.obey()
        raise AssertionError("it asks to be called again and again")

    def give_back(self) -> list[Any]:
        """Containers answer what was recalled of them."""
        returned = []
        for box in list(self.boxes.values()):
            back, box.recalled = box.recalled, []
            back = [item for item in back if item in box.inputs]
            if back:
                box.inputs = [item for item in box.inputs if item not in back]
                returned += back
                self.scheduler.returned(box.id, back, self.now)
                self.obey()
        return returned

    def box(self, function_id: str = "f") -> Box:
        """The only container of the function."""
        (found,) = self.of(function_id)
        return found

    def of(self, function_id: str = "f") -> list[Box]:
        return [box for box in self.boxes.values() if box.function_id == function_id and not box.stopping]

    def waiting(self, function_id: str = "f") -> int:
        return len(self.scheduler.pools[function_id].queue)

    # -- what the scheduler asks for
    def obey(self) -> None:
        decisions, self.scheduler.decisions = self.scheduler.decisions, []
        for decision in decisions:
            if isinstance(decision, Start):
                assert decision.container_id not in self.boxes
                assert decision.worker_id in self.scheduler.capacity.workers
                self.boxes[decision.container_id] = Box(
                    decision.container_id, decision.function_id, decision.worker_id, decision.devices
                )
                self.started.append(decision.container_id)
            elif isinstance(decision, Assign):
                box = self.boxes[decision.container_id]
                assert box.ready, "inputs for a container that is not ready"
                assert not box.stopping, "inputs for a container that ends"
                assert decision.inputs
                box.inputs += decision.inputs
                if decision.batch:
                    box.batches.append(decision.inputs)
            elif isinstance(decision, Recall):
                self.boxes[decision.container_id].recalled += decision.inputs
            elif isinstance(decision, Stop):
                box = self.boxes[decision.container_id]
                assert not box.stopping
                box.stopping = True
                self.stopped.append((box.id, decision.reason))
            elif isinstance(decision, Refuse):
                self.refused += [(item, decision.reason) for item in decision.inputs]
            elif isinstance(decision, GiveUp):
                self.given_up += decision.inputs

    def end_stopped(self) -> None:
        """Containers that were told to end do so."""
        for box in list(self.boxes.values()):
            if box.stopping:
                self.die(box)
