"""How many requests the workspace may send: so many a second, with bursts."""

from __future__ import annotations

import time
from collections.abc import Callable


class RateLimit:
    """A bucket that holds `burst` seconds of `rate`. A rate of 0 is no limit."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._size = max(1.0, rate * burst)
        self._left = self._size
        self._clock = clock
        self._at = clock()

    def take(self) -> float:
        """Take one; 0 when there was one, else the seconds until there is."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left >= 1.0:
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self._rate
