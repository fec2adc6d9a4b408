"""Which workers get containers, as the operator decides."""

from __future__ import annotations

from typing import List

from modal._protocol.message import Message, Record


class DrainedWorker(Record):
    worker_id: str
    hostname: str  # "" where it is not connected
    containers: int  # that it still has


class WorkerDrain(Message, type=380):
    """No new containers on this worker. Those that it has get no more inputs; what still runs after `patience` seconds
    is preempted. Asked again, it only changes when that is. Answered at once with WorkersDrained.

    `worker` is an id, a host name, or "" where there is only one. Faults: not-found, invalid (several are meant).
    """

    worker: str = ""
    patience: float = 0.0


class WorkerUndrain(Message, type=381):
    """It gets containers again. Answered with WorkersDrained: those that are still drained. Faults as WorkerDrain's."""

    worker: str = ""


class DrainAwait(Message, type=382):
    """Answered with WorkersDrained: when drained workers have no containers any more, or that many seconds later."""

    timeout: float
    worker_ids: List[str]


class WorkersDrained(Message, type=383):
    workers: List[DrainedWorker]
