"""Why containers end, in words, and when to stop trying."""

from __future__ import annotations

import signal

from modal._protocol.messages.function import FunctionSpec
from modal._protocol.messages.worker import ContainerExited

BACKOFF_AFTER = 3  # failures in a row before starts are delayed
BACKOFF_SECONDS = 1.0
BACKOFF_MAX = 60.0  # seconds
HOPELESS_AFTER = 10  # failures in a row after which an ephemeral app's function is given up


class CrashLoop:
    """Failures in a row of one function's containers.

    Containers that ran side by side and failed for the same cause are one failure, however many they were: one counts
    when its container was started after the last one that counted.
    """

    def __init__(self) -> None:
        self.count = 0
        self.round = 0  # grows with each failure that counts; a container keeps the one in which it was started

    def add(self, round: int) -> bool:
        """A container that was started in that round has failed. Whether it counts."""
        if round < self.round:
            return False
        self.round += 1
        self.count += 1
        return True

    def reset(self) -> None:
        """A container has done its work."""
        self.count = 0

    def renew(self) -> None:
        """The function has changed: what becomes of the containers of its older form says nothing of it."""
        self.count = 0
        self.round += 1

    def delay(self) -> float:
        """Seconds to wait before the next start."""
        beyond = self.count - BACKOFF_AFTER
        return 0.0 if beyond < 0 else min(BACKOFF_MAX, BACKOFF_SECONDS * 2.0 ** min(beyond, 16))

    @property
    def hopeless(self) -> bool:
        """Whether what waits shall wait no longer (the documented failure rate of ephemeral apps)."""
        return self.count >= HOPELESS_AFTER

    def describe(self, name: str, new_version: bool = False) -> str:
        """A sentence for the log; "" where nothing is wrong."""
        if self.count < BACKOFF_AFTER:
            return ""
        what = f"the new version of {name}" if new_version else name
        text = f"{what} crash-loops ({self.count} failures in a row, {self.delay():.0f} s between starts)"
        return f"{text}, the one before serves" if new_version else text


def crash_pause(crashes: int) -> float:
    """Seconds before an input is tried again under which so many containers have died. The first may be bad luck."""
    return 0.0 if crashes <= 1 else min(BACKOFF_MAX, BACKOFF_SECONDS * 2.0 ** (crashes - 2))


def describe_exit(message: ContainerExited, spec: FunctionSpec, doing: str = "while it ran inputs") -> tuple[str, str]:
    """A sentence about the container's end, and what to do next. `doing`: what it was about."""
    if message.reason == "out-of-memory":
        limit = spec.resources.memory_limit
        allowed = f" of {limit} MiB" if limit else ""
        return (
            f"{spec.name} was killed because it ran out of memory: its container used more than its limit{allowed}",
            "Raise the limit with memory=(request, limit) in MiB, or use less memory at once",
        )
    if message.reason == "out-of-disk":
        detail = f": {message.detail}" if message.detail else ""
        return (
            f"{spec.name} filled its container's disk{detail}",
            "Write less, or ask for more with ephemeral_disk= in MiB",
        )
    if message.reason == "start-failed":
        return f"the container of {spec.name} could not be started: {message.detail}", "See `intermodal logs`"
    if message.reason == "lost":
        return f"the container of {spec.name} was lost: {message.detail or 'its worker went away'}", ""
    if message.signal:
        try:
            name = signal.Signals(message.signal).name
        except ValueError:
            name = f"signal {message.signal}"
        hint = "A native library crashed" if message.signal == signal.SIGSEGV else ""
        return f"the container of {spec.name} was killed by {name} {doing}", hint
    return f"the container of {spec.name} exited with code {message.exit_code} {doing}", (
        "Functions must return or raise; os._exit ends the whole container"
    )
