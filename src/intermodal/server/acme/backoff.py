"""When an order that has failed is tried again: without I/O, times in seconds."""

from __future__ import annotations

AWAY = (15.0, 1800.0)  # the first pause and the longest one, where the authority was not reached
REJECTED = (300.0, 43200.0)  # where it said no: it counts failures, and stops listening to whom it hears too often
LIMITED = (3600.0, 43200.0)  # where it said that it had heard too often
EARLY = 300.0  # after a failure, a new start of the server may try again: the operator may have changed something


def pause(failures: int, kind: tuple[float, float], jitter: float) -> float:
    """After so many failures in a row (1 or more); `jitter` from 0 to 1 spreads what failed together."""
    first, most = kind
    return min(most, first * 2.0 ** min(failures - 1, 20)) * (0.9 + 0.2 * jitter)


def after_start(again: float, failed: float) -> float:
    """When to try after a new start of the server what was to be tried `again` then."""
    return min(again, failed + EARLY)
