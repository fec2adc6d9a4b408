"""How much of each worker is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from intermodal.server.scheduler.gpus import Gpu, choose, describe

CPU_OVERCOMMIT = 4.0  # reserved cores per real one: most containers wait most of the time
OVERSIZE = 16.0  # how many times a machine's cores and memory a container may ask for; it gets what there is


@dataclass(frozen=True)
class Request:
    """What one container reserves: cores, MiB, and one of these alternatives of GPUs (none: no GPU)."""

    cpu: float
    memory: int
    gpus: tuple[Gpu, ...] = ()


class Taken(NamedTuple):
    """What one container has reserved."""

    cpu: float
    memory: int
    devices: tuple[str, ...] = ()


@dataclass
class Worker:
    """One machine. `cpu` is what may be reserved, overcommitment included; `devices` are its GPUs, id to type."""

    worker_id: str
    cpu: float
    memory: int
    devices: dict[str, str] = field(default_factory=dict)
    free: dict[str, str] = field(default_factory=dict)  # of `devices`, those that no container has
    containers: int = 0
    cpu_used: float = 0.0
    memory_used: int = 0
    away: bool = False  # it cannot be reached: nothing is placed here


class Capacity:
    """All workers together."""

    def __init__(self, cpu_overcommit: float = CPU_OVERCOMMIT, oversize: float = OVERSIZE) -> None:
        self.workers: dict[str, Worker] = {}
        self.drained: set[str] = set()  # ids of those that shall get no containers
        self._overcommit = cpu_overcommit
        self._oversize = oversize

    @property
    def cores(self) -> float:
        """Real cores of all workers that may get containers."""
        return sum(worker.cpu for worker in self.workers.values() if self._is_there(worker)) / self._overcommit

    def _is_there(self, worker: Worker) -> bool:
        return not worker.away and worker.worker_id not in self.drained

    def add(self, worker_id: str, cpus: float, memory: int, devices: Mapping[str, str] | None = None) -> None:
        """A worker is there (again). What its containers took stays taken."""
        worker = self.workers.setdefault(worker_id, Worker(worker_id, 0.0, 0))
        taken = worker.devices.keys() - worker.free.keys()
        worker.cpu, worker.memory, worker.away = cpus * self._overcommit, memory, False
        worker.devices = dict(devices or {})
        worker.free = {device: kind for device, kind in worker.devices.items() if device not in taken}

    def leave(self, worker_id: str) -> None:
        """The worker cannot be reached for now."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.away = True

    def remove(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)

    def fit(self, request: Request) -> Request:
        """The request, cut to what the largest machine has: asking for more than there is means "all of it".

        Programs are written for larger machines than the one at hand; they shall run here too. `problem` says
        where that ends.
        """
        if not self.workers:
            return request
        cpu = max(worker.cpu for worker in self.workers.values())
        memory = max(worker.memory for worker in self.workers.values())
        return Request(min(request.cpu, cpu), min(request.memory, memory), request.gpus)

    def problem(self, request: Request) -> str:
        """Why no machine can ever hold this, with what was asked for and what there is; "" where one can.

        Without any machine nothing is known, and nothing is wrong.
        """
        workers = self.workers.values()
        if not workers:
            return ""
        if all(choose(request.gpus, worker.devices) is None for worker in workers):
            asked = " or ".join(str(option) for option in request.gpus)
            return f"gpu={asked!r} was asked for, and {self._has(', '.join(self._gpus()))}"
        cores = max(worker.cpu for worker in workers) / self._overcommit
        if request.cpu > max(cores, 1.0) * self._oversize:
            return f"cpu={request.cpu:g} was asked for, and {self._has(f'{cores:g} cores')}"
        memory = max(worker.memory for worker in workers)
        if request.memory > max(memory, 1024) * self._oversize:
            return f"memory={request.memory} (MiB) was asked for, and {self._has(f'{memory} MiB')}"
        return ""

    def lack(self, request: Request) -> str:
        """What there is too little of now, for people."""
        connected = [worker for worker in self.workers.values() if not worker.away]
        if not connected:
            return "a worker: none is connected"
        there = [worker for worker in connected if self._is_there(worker)]
        if not there:
            return (
                "a worker: it is drained (`intermodal undrain`)" if len(connected) == 1 else "a worker: all are drained"
            )
        if all(choose(request.gpus, worker.free) is None for worker in there):
            asked = " or ".join(str(option) for option in request.gpus)
            return f"gpu={asked!r}: {', '.join(self._gpus())} in all, taken by other containers"
        wanted = self.fit(request)
        most = max(there, key=lambda worker: worker.memory - worker.memory_used)
        free = max(0, most.memory - most.memory_used)
        if wanted.memory > free:
            return f"memory={request.memory}: {free} of {most.memory} MiB are not reserved by other containers"
        return "room: other containers have reserved the CPU and memory of the machine"

    def _has(self, what: str) -> str:
        return f"this machine has {what}" if len(self.workers) == 1 else f"the machines have at most {what} each"

    def _gpus(self) -> list[str]:
        return list(dict.fromkeys(describe(worker.devices.values()) for worker in self.workers.values()))

    def place(self, request: Request, must: bool = False) -> str:
        """The worker with most room for the request, "" where it fits nowhere now.

        `must` ignores CPU and memory reservations: a function's first container always starts, or a
        function that waits for another one could wait for ever. Devices are never shared.
        """
        wanted = self.fit(request)
        alternatives: list[tuple[Gpu, ...]] = [(gpu,) for gpu in wanted.gpus]
        for options in alternatives or [()]:
            best, best_room = "", 0.0
            for worker in self.workers.values():
                if not self._is_there(worker) or choose(options, worker.free) is None:
                    continue
                room = worker.cpu - worker.cpu_used - wanted.cpu
                fits = room >= -1e-9 and worker.memory_used + wanted.memory <= worker.memory
                if not fits and not must:
                    continue
                if not best or room > best_room:
                    best, best_room = worker.worker_id, room
            if best:
                return best
        return ""

    def take(self, worker_id: str, request: Request, devices: tuple[str, ...] | None = None) -> Taken:
        """Reserve; returns what was taken, for `give`. `devices`: those that a container has already."""
        wanted = self.fit(request)
        worker = self.workers.get(worker_id)
        if worker is None:
            return Taken(wanted.cpu, wanted.memory)
        if devices is None:
            devices = choose(wanted.gpus, worker.free) or ()
        worker.containers += 1
        worker.cpu_used += wanted.cpu
        worker.memory_used += wanted.memory
        for device in devices:
            worker.free.pop(device, None)
        return Taken(wanted.cpu, wanted.memory, devices)

    def give(self, worker_id: str, taken: Taken) -> None:
        """Give back what `take` returned."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.containers -= 1
        worker.memory_used -= taken.memory
        for device in taken.devices:
            if device in worker.devices:
                worker.free[device] = worker.devices[device]
        # Sums of fractions drift: an empty machine is exactly empty.
        worker.cpu_used = worker.cpu_used - taken.cpu if worker.containers else 0.0

    def lend(self, worker_id: str, taken: Taken) -> None:
        """A container that took this has no use for its processors for now."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.cpu_used -= taken.cpu

    def take_back(self, worker_id: str, taken: Taken) -> None:
        """It has again, whoever uses them now."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.cpu_used += taken.cpu
