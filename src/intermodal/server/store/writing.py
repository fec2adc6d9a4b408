"""Writing all of something to a place of a file."""

from __future__ import annotations

import os


def write_all(file: int, data: bytes | memoryview, at: int) -> None:
    """Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
