"""Stdout and stderr of the container: whole lines at a time, and which input each belongs to.

Before what another input prints, its id goes through the same pipe (OUTPUT_MARK): the worker attributes
lines by it, whatever has arrived by other ways meanwhile. What programs that the user's code starts
print bears no mark.
"""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Any

from modal._context import current_input_id
from modal._protocol.messages.worker import OUTPUT_MARK

PIPE_SECONDS = 0.02


class _MarkedRaw(io.FileIO):
    """A descriptor that remembers that it was written to, and by which input."""

    touched = False
    _owner = ""

    def write(self, data: object) -> int:
        self.touched = True
        owner = current_input_id() or ""
        if owner != self._owner:
            self._owner = owner
            super().write(OUTPUT_MARK + owner.encode() + b"\x00")
        return super().write(data)  # type: ignore[arg-type]


class PrintedStreams:
    """Both streams together."""

    def __init__(self, streams: list[tuple[Any, _MarkedRaw]]) -> None:
        self._streams = streams
        self._pipes = [os.dup(raw.fileno()) for _stream, raw in streams]  # whatever user code does to 1 and 2

    def take(self) -> bool:
        """Send on what was printed without an end of line; whether anything was printed since the last time."""
        touched = False
        for stream, raw in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # the user's code closed it
            if raw.touched:
                raw.touched = False
                touched = True
        return touched

    def quiet(self, seconds: float) -> bool:
        """Whether nobody, processes of the user's included, has printed anything in the last `seconds`.

        The kernel's times of pipes are some milliseconds coarse: what was printed shortly before counts too.
        """
        last = max([os.fstat(pipe).st_mtime for pipe in self._pipes])
        return last < time.time() - seconds - PIPE_SECONDS


def attach_streams() -> PrintedStreams:
    """Put line-buffered streams over descriptors 1 and 2 in the place of `sys.stdout` and `sys.stderr`."""
    streams: list[tuple[Any, _MarkedRaw]] = []
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = _MarkedRaw(descriptor, "w", closefd=False)
        raw.name = f"<{name}>"  # as the interpreter's own streams are called
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw, 8192), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        streams.append((stream, raw))
    return PrintedStreams(streams)
