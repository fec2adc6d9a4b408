"""Writing all of something to a file."""

from __future__ import annotations

import os
from typing import Union


def write_all(fd: int, content: Union[bytes, memoryview], offset: int = 0) -> None:
    """At this place of the file. Raises OSError."""
    rest = memoryview(content)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest = rest[written:]
        offset += written


def append_all(fd: int, content: Union[bytes, memoryview]) -> None:
    """Where the file stands. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
