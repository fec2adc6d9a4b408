"""Whether a container is alive: it must say something now and then, and be ready in time.

Its runner's control thread sends heartbeats from before the user's code is imported until the end. A start that takes
too long is ended by the runner itself, which knows what it waits for; here is what remains when the runner cannot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from modal._protocol.messages.function import FunctionSpec

HEARTBEAT_SECONDS = 300.0  # of silence after which a container counts as stuck
FROZEN_SECONDS = 60.0  # the same while it starts, where none of its processes has used a processor either
STILL = 0.01  # seconds of a processor in all that time that count as none
RUNNER_LATE_SECONDS = 30.0  # beyond the start limit, after which the runner will not end the start itself

START_SETTING = "INTERMODAL_START_SECONDS"
START_SECONDS = 600.0  # that a container may take until it is ready; a function's longer `timeout` counts instead


def start_limit(function: FunctionSpec, environ: Mapping[str, str] | None = None) -> float:
    """Seconds that imports, `@enter` hooks and the start of a web server may take together.

    What makes no sense in the operator's setting counts as unset.
    """
    try:
        least = max(1.0, float((os.environ if environ is None else environ)[START_SETTING]))
    except (KeyError, ValueError):
        least = START_SECONDS
    webs = [function.web, *(method.web for method in function.methods)]
    serving = max((web.startup_timeout for web in webs if web is not None and web.kind == "server"), default=0.0)
    return max(least, float(function.timeout)) + serving


class Liveness:
    """Of one container. Time is what the worker has seen pass: it may have stood still itself."""

    def __init__(self, limit: float) -> None:
        self.limit = limit  # seconds, see `start_limit`
        self._age = 0.0
        self._silent = 0.0  # seconds since it was last heard of
        self._cpu = 0.0  # what its processes had used when they last did something
        self._still = 0.0  # seconds since then

    def beat(self) -> None:
        """It was heard of."""
        self._silent = self._still = 0.0

    def passed(self, seconds: float, cpu: float) -> None:
        """So much time has passed; its processes have used `cpu` seconds until now (0: that is not known)."""
        self._age += seconds
        self._silent += seconds
        self._still += seconds
        if not cpu or abs(cpu - self._cpu) > STILL:
            self._cpu, self._still = cpu, 0.0

    def verdict(self, ready: bool) -> str:
        """Why it must be ended; "" where it need not."""
        if not ready and min(self._silent, self._still) > FROZEN_SECONDS:
            return (
                f"it has not been heard of for {FROZEN_SECONDS:.0f} seconds while it started, and its processes stand "
                "still (stopped by SIGSTOP, frozen, or held up by native code)"
            )
        if self._silent > HEARTBEAT_SECONDS:
            return (
                f"heartbeat timeout: the container has not been heard of for {HEARTBEAT_SECONDS:.0f} seconds "
                "(native code that keeps the interpreter's lock, or an exit that hangs)"
            )
        if not ready and self._age > self.limit + RUNNER_LATE_SECONDS:
            return f"it was not ready within {self.limit:g} seconds (imports and @enter hooks)"
        return ""
