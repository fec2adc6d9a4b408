"""Stdout and stderr of the container: whole lines at a time, and which input each belongs to.

Before what another input prints, its id goes through the same pipe (OUTPUT_MARK): the worker attributes
lines by it, whatever has arrived by other ways meanwhile. What programs that the user's code starts
print bears no mark.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from typing import Any

from modal._context import current_input_id
from modal._protocol.messages.worker import OUTPUT_MARK

PIPE_SECONDS = 0.02


class _Marked(io.BufferedWriter):
    """Knows that it was written to, and puts before what an input writes whose it is.

    The mark lies in the buffer with what follows it: threads of other inputs may write before that is flushed.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw, 8192)
        self.touched = False
        self._owner = ""
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forked)

    def write(self, data: Any) -> int:
        with self._lock:
            self.touched = True
            owner = current_input_id() or ""
            if owner != self._owner:
                super().write(OUTPUT_MARK + owner.encode() + b"\x00")
                self._owner = owner
            return super().write(data)

    def _forked(self) -> None:
        self._lock = threading.RLock()  # a thread that there is no more may have had it


class PrintedStreams:
    """Both streams together."""

    def __init__(self, streams: list[tuple[Any, _Marked]]) -> None:
        self._streams = streams
        self._pipes = [os.dup(marked.fileno()) for _stream, marked in streams]  # whatever user code does to 1 and 2

    def take(self) -> bool:
        """Send on what was printed without an end of line; whether anything was printed since the last time."""
        touched = False
        for stream, marked in self._streams:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # the user's code closed it
            if marked.touched:
                marked.touched = False
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
    streams: list[tuple[Any, _Marked]] = []
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(descriptor, "w", closefd=False)
        raw.name = f"<{name}>"  # as the interpreter's own streams are called
        marked = _Marked(raw)
        stream = io.TextIOWrapper(marked, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        streams.append((stream, marked))
    return PrintedStreams(streams)
