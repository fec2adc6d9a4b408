"""When a schedule is due: arithmetic alone, in UTC and seconds since the epoch."""

from __future__ import annotations

import calendar
import math
from datetime import UTC, datetime, timedelta
from typing import Any

from cronsim import CronSim, CronSimError

from modal._protocol.errors import Code, Fault

SHORTEST = 1.0  # seconds between two runs
NEVER = math.inf
_SECONDS = {"weeks": 7 * 86400.0, "days": 86400.0, "hours": 3600.0, "minutes": 60.0, "seconds": 1.0}
_MONTH = 28 * 86400.0  # seconds, at least


def check(spec: dict[str, Any], name: str) -> None:
    """Fault(invalid) for what is no schedule. `name`: the function's."""
    try:
        if "cron" in spec:
            CronSim(str(spec["cron"]), datetime(2000, 1, 1, tzinfo=UTC))
        elif not (_months(spec["period"]) or _rest(spec["period"]) > 0):
            raise ValueError("the period is empty")
    except (CronSimError, ValueError, KeyError, TypeError) as error:
        raise Fault(Code.INVALID, f"{name}: the schedule {spec} cannot be used: {error}") from None


def next_time(spec: dict[str, Any], base: float, after: float) -> float:
    """The first time later than `after`; NEVER where there is none. A period counts from `base`, its deployment."""
    if "cron" in spec:
        try:
            found: datetime = next(CronSim(str(spec["cron"]), datetime.fromtimestamp(math.floor(after), UTC)))
        except StopIteration:  # such as a 30th of February
            return NEVER
        return found.timestamp()
    months, rest = _months(spec["period"]), _rest(spec["period"])
    if not months:
        rest = max(rest, SHORTEST)
    shortest = months * _MONTH + rest
    count = max(1, math.floor((after - base) / shortest / 1.2) if months else math.floor((after - base) / shortest))
    while True:
        at = _later(base, months * count) + rest * count
        if at > after:
            return at
        count += 1


def _months(period: dict[str, Any]) -> int:
    return 12 * int(period.get("years", 0)) + int(period.get("months", 0))


def _rest(period: dict[str, Any]) -> float:
    return sum(seconds * float(period.get(unit, 0)) for unit, seconds in _SECONDS.items())


def _later(base: float, months: int) -> float:
    """So many calendar months later; the 31st becomes the last day of a shorter month."""
    if not months:
        return base
    begin = datetime.fromtimestamp(base, UTC)
    years, month = divmod(begin.month - 1 + months, 12)
    year = begin.year + years
    if year > 9999:
        return NEVER
    day = min(begin.day, calendar.monthrange(year, month + 1)[1])
    return (datetime(year, month + 1, day, tzinfo=UTC) + timedelta(seconds=base % 86400.0)).timestamp()
