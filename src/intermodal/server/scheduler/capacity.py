"""How much of each worker is taken."""

from __future__ import annotations

from dataclasses import dataclass

CPU_OVERCOMMIT = 4.0  # reserved cores per real one: most containers wait most of the time


@dataclass(frozen=True)
class Request:
    """What one container reserves: cores, MiB, GPUs by type."""

    cpu: float
    memory: int
    gpus: int = 0
    gpu_type: str = ""


@dataclass
class Worker:
    """One machine. `cpu` is what may be reserved, overcommitment included."""

    worker_id: str
    cpu: float
    memory: int
    gpus: int = 0
    containers: int = 0
    cpu_used: float = 0.0
    memory_used: int = 0
    gpus_used: int = 0
    away: bool = False  # nothing is placed here


class Capacity:
    """All workers together."""

    def __init__(self, cpu_overcommit: float = CPU_OVERCOMMIT) -> None:
        self.workers: dict[str, Worker] = {}
        self._overcommit = cpu_overcommit

    @property
    def cores(self) -> float:
        """Real cores of all workers that are there."""
        return sum(worker.cpu for worker in self.workers.values() if not worker.away) / self._overcommit

    def add(self, worker_id: str, cpus: float, memory: int, gpus: int = 0) -> None:
        """A worker is there (again). What its containers took stays taken."""
        worker = self.workers.setdefault(worker_id, Worker(worker_id, 0.0, 0))
        worker.cpu, worker.memory, worker.gpus, worker.away = cpus * self._overcommit, memory, gpus, False

    def leave(self, worker_id: str) -> None:
        """The worker cannot be reached for now."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.away = True

    def remove(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)

    def fit(self, request: Request) -> Request:
        """The request, cut to what the largest machine has: asking for more than there is means "all of it".

        Programs are written for larger machines than the one at hand; they shall run here too.
        """
        if not self.workers:
            return request
        cpu = max(worker.cpu for worker in self.workers.values())
        memory = max(worker.memory for worker in self.workers.values())
        return Request(min(request.cpu, cpu), min(request.memory, memory), request.gpus, request.gpu_type)

    def place(self, request: Request, must: bool = False) -> str:
        """The worker with most room for the request, "" where it fits nowhere now.

        `must` ignores CPU and memory reservations: a function's first container always starts, or a
        function that waits for another one could wait for ever.
        """
        wanted = self.fit(request)
        best, best_room = "", -1.0
        for worker in self.workers.values():
            if worker.away or worker.gpus_used + wanted.gpus > worker.gpus:
                continue
            room = worker.cpu - worker.cpu_used - wanted.cpu
            fits = room >= -1e-9 and worker.memory_used + wanted.memory <= worker.memory
            if not fits and not must:
                continue
            if not best or room > best_room:
                best, best_room = worker.worker_id, room
        return best

    def take(self, worker_id: str, request: Request) -> Request:
        """Reserve; returns what was taken, for `give`."""
        wanted = self.fit(request)
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.containers += 1
            worker.cpu_used += wanted.cpu
            worker.memory_used += wanted.memory
            worker.gpus_used += wanted.gpus
        return wanted

    def give(self, worker_id: str, taken: Request) -> None:
        """Give back what `take` returned."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.containers -= 1
        worker.memory_used -= taken.memory
        worker.gpus_used -= taken.gpus
        # Sums of fractions drift: an empty machine is exactly empty.
        worker.cpu_used = worker.cpu_used - taken.cpu if worker.containers else 0.0
