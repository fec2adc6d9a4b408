"""What was done lately, so that it is known when it is asked for once more."""

from __future__ import annotations


class Recent:
    """The last `size` tokens that were added, and up to as many before them."""

    __slots__ = ("_before", "_latest", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._latest: set[bytes] = set()
        self._before: set[bytes] = set()

    def add(self, token: bytes) -> None:
        latest = self._latest
        latest.add(token)
        if len(latest) >= self._size:
            self._before, self._latest = latest, set()

    def __contains__(self, token: bytes) -> bool:
        return token in self._latest or token in self._before
