"""Stdout and stderr of the container: whole lines at a time, and a count of what was written.

The count tells the runner whether an input has printed: its output is then sent before the next
input starts, so that the worker attributes the lines to the right input.
"""

from __future__ import annotations

import io
import sys


class _CountedRaw(io.FileIO):
    """A descriptor that remembers that it was written to."""

    touched = False

    def write(self, data: object) -> int:
        self.touched = True
        return super().write(data)  # type: ignore[arg-type]


class CountedStream:
    """Both streams together."""

    def __init__(self, raws: list[_CountedRaw]) -> None:
        self._raws = raws

    def take(self) -> bool:
        """Whether anything was written since the last time."""
        touched = False
        for raw in self._raws:
            if raw.touched:
                raw.touched = False
                touched = True
        return touched


def attach_streams() -> CountedStream:
    """Put line-buffered streams over descriptors 1 and 2 in the place of `sys.stdout` and `sys.stderr`."""
    raws = []
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = _CountedRaw(descriptor, "w", closefd=False)
        raw.name = f"<{name}>"  # type: ignore[misc]  # as the interpreter's own streams are called
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw, 8192), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        raws.append(raw)
    return CountedStream(raws)
