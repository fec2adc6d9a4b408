"""The standard streams of sandboxes and of the processes in them."""

from __future__ import annotations

from typing import Any, AsyncIterator, Generic, Iterator, TypeVar, Union

from modal._planned import not_yet, planned

T = TypeVar("T")


class StreamReader(Generic[T]):
    """Retrieve logs from a stream (`stdout` or `stderr`). As an iterable it gives the output as it comes."""

    _file_descriptor = 1

    @property
    def file_descriptor(self) -> int:
        """Possible values are `1` for stdout and `2` for stderr."""
        return self._file_descriptor

    @planned
    def read(self) -> T:
        """Fetch the entire contents of the stream until EOF."""
        raise AssertionError

    def __iter__(self) -> Iterator[T]:
        raise not_yet("Reading a sandbox's output")

    def __aiter__(self) -> AsyncIterator[T]:
        raise not_yet("Reading a sandbox's output")


class StreamWriter:
    """Provides an interface to buffer and write logs to a sandbox or container process stream (`stdin`)."""

    def write(self, data: Union[bytes, bytearray, memoryview, str]) -> None:
        """Write data to the stream but does not send it immediately: see `drain`."""
        raise not_yet("Writing to a sandbox's input")

    def write_eof(self) -> None:
        """Close the write end of the stream after the buffered data is drained."""
        raise not_yet("Writing to a sandbox's input")

    @planned
    def drain(self) -> Any:
        """Flush the write buffer and send data to the running process."""
