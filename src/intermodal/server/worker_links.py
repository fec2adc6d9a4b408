"""The server's ends of what leads to workers: one connection a worker, one stream a container."""

from __future__ import annotations

from typing import Any

from intermodal.server.live import Container
from modal._protocol.aio import Connection, Stream
from modal._protocol.messages.worker import (
    ContainerSignalInput,
    RunInputs,
    RunPause,
    RunRecall,
    RunResume,
    WorkerRegister,
    WorkerStats,
)


class WorkerLink:
    """One registered worker."""

    def __init__(self, connection: Connection, message: WorkerRegister) -> None:
        self.connection = connection
        self.worker_id = message.worker_id
        self.hostname = message.hostname
        self.cpus = message.cpus
        self.memory = message.memory
        self.runtimes = message.runtimes
        self.pid = message.pid
        self.gpus: list[dict[str, Any]] = [gpu for gpu in message.gpus if isinstance(gpu, dict)]
        self.devices = {str(gpu.get("id", "")): str(gpu.get("kind", "")) for gpu in self.gpus}
        self.stats: WorkerStats | None = None


class ContainerLink:
    """The server's end of one container's stream."""

    def __init__(self, worker: WorkerLink, stream: Stream, container: Container) -> None:
        self.worker = worker
        self.stream = stream
        self._container = container
        self._ended = False

    def send(self, message: RunInputs) -> None:
        self.stream.send_now(message)

    def end(self) -> None:
        """No more inputs: the runner finishes and ends."""
        if not self._ended:
            self._ended = True
            self.stream.end()

    def cancel(self, tokens: list[int]) -> None:
        self.worker.connection.note(ContainerSignalInput(self._container.id, tokens))

    def recall(self, tokens: list[int]) -> None:
        self.stream.send_now(RunRecall(tokens))

    def pause(self, tokens: list[int]) -> None:
        """The consumers of these generators are behind."""
        self.stream.send_now(RunPause(tokens))

    def resume(self, tokens: list[int]) -> None:
        """These generators may go on."""
        self.stream.send_now(RunResume(tokens))
