"""Processes that run beside a sandbox's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Optional, TypeVar

from modal._planned import not_yet, planned
from modal.stream_type import StreamType

if TYPE_CHECKING:
    from modal._client import Client
    from modal.io_streams import StreamReader, StreamWriter

T = TypeVar("T")


class ContainerProcess(Generic[T]):
    """Represents a running process in a container."""

    def __init__(
        self,
        process_id: str,
        client: Client,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        text: bool = True,
        by_line: bool = False,
    ) -> None:
        raise not_yet("modal.container_process.ContainerProcess")

    @property
    def stdout(self) -> StreamReader[T]:
        """StreamReader for the container process's stdout stream."""
        raise not_yet("modal.container_process.ContainerProcess")

    @property
    def stderr(self) -> StreamReader[T]:
        """StreamReader for the container process's stderr stream."""
        raise not_yet("modal.container_process.ContainerProcess")

    @property
    def stdin(self) -> StreamWriter:
        """StreamWriter for the container process's stdin stream."""
        raise not_yet("modal.container_process.ContainerProcess")

    @property
    def returncode(self) -> int:
        """The exit code of the process, once it has ended."""
        raise not_yet("modal.container_process.ContainerProcess")

    @planned
    def poll(self) -> Optional[int]:
        """Check if the container process has finished running: its exit code, or None."""

    @planned
    def wait(self) -> int:
        """Wait for the container process to finish running. Returns the exit code."""
        raise AssertionError

    @planned
    def attach(self) -> None:
        """Connect the local terminal to the process."""
