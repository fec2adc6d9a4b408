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
    cpu_used: float = 0.0
    memory_used: int = 0
    gpus_used: int = 0
    draining: bool = False


class Capacity:
    """All workers together."""

    def __init__(self, cpu_overcommit: float = CPU_OVERCOMMIT) -> None:
        self.workers: dict[str, Worker] = {}
        self._overcommit = cpu_overcommit

    def add(self, worker_id: str, cpus: float, memory: int, gpus: int = 0) -> None:
        """A worker is there (again): what it runs is counted anew by `take`."""
        self.workers[worker_id] = Worker(worker_id, cpus * self._overcommit, memory, gpus)

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
            if worker.draining or worker.gpus_used + wanted.gpus > worker.gpus:
                continue
            room = worker.cpu - worker.cpu_used - wanted.cpu
            fits = room >= -1e-9 and worker.memory_used + wanted.memory <= worker.memory
            if not fits and not must:
                continue
            if not best or room > best_room:
                best, best_room = worker.worker_id, room
        return best

    def take(self, worker_id: str, request: Request) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            wanted = self.fit(request)
            worker.cpu_used += wanted.cpu
            worker.memory_used += wanted.memory
            worker.gpus_used += wanted.gpus

    def give(self, worker_id: str, request: Request) -> None:
        worker = self.workers.get(worker_id)
        if worker is not None:
            wanted = self.fit(request)
            worker.cpu_used = max(0.0, worker.cpu_used - wanted.cpu)
            worker.memory_used = max(0, worker.memory_used - wanted.memory)
            worker.gpus_used = max(0, worker.gpus_used - wanted.gpus)
