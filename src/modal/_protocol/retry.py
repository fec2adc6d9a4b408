"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 5.0
FACTOR = 2.0
JITTER = 0.5  # up to this part of a delay is left out at random, so that many clients do not come back at once


class Backoff:
    """Delays that grow with every failure. Take one after each; `reset` after a success."""

    def __init__(self, first: float = FIRST_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._delay = first

    def next(self) -> float:
        """Seconds to wait now."""
        delay, self._delay = self._delay, min(self._delay * FACTOR, self._longest)
        return delay * (1 - JITTER * random.random())

    def reset(self) -> None:
        """The next failure is the first one again."""
        self._delay = self._first
