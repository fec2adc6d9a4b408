"""Functions that wait for something, in turn: first between apps, then between the functions of one app."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from intermodal.server.scheduler.pool import Pool


class Turns:
    """An app with many functions gets its turn no more often than one with a single function.

    No operation costs more because there are more functions or apps.
    """

    def __init__(self) -> None:
        self._apps: OrderedDict[str, OrderedDict[str, Pool]] = OrderedDict()
        self._count = 0

    def add(self, pool: Pool) -> None:
        """Behind the other functions of its app. One that waits already keeps its place."""
        mine = self._apps.setdefault(pool.app_id, OrderedDict())
        if pool.function_id not in mine:
            self._count += 1
        mine[pool.function_id] = pool

    def discard(self, pool: Pool) -> None:
        mine = self._apps.get(pool.app_id)
        if mine is not None and mine.get(pool.function_id) is pool:
            del mine[pool.function_id]
            self._count -= 1
            if not mine:
                del self._apps[pool.app_id]

    def pop(self) -> Pool:
        """Whose turn it is. Its app's next turn is after all others'."""
        app_id, mine = next(iter(self._apps.items()))
        _, pool = mine.popitem(last=False)
        self._count -= 1
        if mine:
            self._apps.move_to_end(app_id)
        else:
            del self._apps[app_id]
        return pool

    def favour(self, pool: Pool) -> None:
        """If it waits, the next turn is its."""
        if pool in self:
            self._apps.move_to_end(pool.app_id, last=False)
            self._apps[pool.app_id].move_to_end(pool.function_id, last=False)

    def heads(self, count: int) -> Iterator[Pool]:
        """The next functions of the next apps, at most so many."""
        for mine in self._apps.values():
            if not count:
                return
            count -= 1
            yield next(iter(mine.values()))

    def __contains__(self, pool: Pool) -> bool:
        mine = self._apps.get(pool.app_id)
        return mine is not None and mine.get(pool.function_id) is pool

    def __len__(self) -> int:
        return self._count
