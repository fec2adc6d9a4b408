"""Where the output of a process goes."""

from __future__ import annotations

from enum import Enum


class StreamType(Enum):
    """What to do with the stdout or stderr of a process in a Sandbox."""

    DEVNULL = "devnull"  # dropped
    PIPE = "pipe"  # kept until it is read
    STDOUT = "stdout"  # printed here as it comes
