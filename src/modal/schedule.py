"""When a deployed function runs by itself."""

from __future__ import annotations

from typing import Any

from modal.exception import InvalidError


class Schedule:
    """Schedules represent a time frame to repeatedly run a Modal function."""

    def _to_spec(self) -> dict[str, Any]:
        """As the server keeps it."""
        raise NotImplementedError


_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Cron(Schedule):
    """Cron jobs are a type of schedule, specified using the Unix cron tab syntax, in UTC.

    The alternative schedule type is the `modal.Period`.

    ```python
    @app.function(schedule=modal.Cron("* * * * *"))
    def f():
        print("This function will run every minute")
    ```
    """

    def __init__(self, cron_string: str) -> None:
        """Construct a schedule that runs according to a cron expression string."""
        if not isinstance(cron_string, str):
            raise InvalidError(f"Cron: expected a string such as '0 9 * * 1', not {type(cron_string).__name__}.")
        parts = cron_string.split()
        if len(parts) != len(_FIELDS):
            raise InvalidError(
                f"Cron: {cron_string!r} has {len(parts)} fields; five are needed: "
                "minute, hour, day of month, month, day of week."
            )
        for part, (name, low, high) in zip(parts, _FIELDS):
            _check_field(cron_string, part, name, low, high)
        self.cron_string = cron_string

    def _to_spec(self) -> dict[str, Any]:
        return {"cron": self.cron_string}

    def __repr__(self) -> str:
        return f"Cron({self.cron_string!r})"


def _check_field(whole: str, text: str, name: str, low: int, high: int) -> None:
    def number(part: str) -> int:
        names = _MONTHS if name == "month" else _DAYS if name == "day of week" else ()
        if part.lower() in names:
            return names.index(part.lower()) + low
        if not part.isdigit() or not low <= int(part) <= high:
            raise InvalidError(f"Cron: {part!r} in {whole!r} is no {name} ({low}-{high}).")
        return int(part)

    for item in text.split(","):
        span, slash, step = item.partition("/")
        if slash and (not step.isdigit() or int(step) == 0):
            raise InvalidError(f"Cron: the step in {item!r} of {whole!r} must be a positive number.")
        if span == "*":
            continue
        first, dash, last = span.partition("-")
        start = number(first)
        if dash and number(last) < start:
            raise InvalidError(f"Cron: the range {span!r} in {whole!r} runs backwards.")


class Period(Schedule):
    """Create a schedule that runs every given time interval.

    ```python
    @app.function(schedule=modal.Period(days=1))
    def f():
        print("This function will run every day")

    modal.Period(hours=4)          # runs every 4 hours
    modal.Period(minutes=15)       # runs every 15 minutes
    ```

    Only `seconds` can be a float. All other arguments are integers. `days=1` is a calendar day,
    which is not always 24 hours. The clock starts at each deployment.
    """

    def __init__(
        self,
        *,
        years: int = 0,
        months: int = 0,
        weeks: int = 0,
        days: int = 0,
        hours: int = 0,
        minutes: int = 0,
        seconds: float = 0,
    ) -> None:
        values = {
            "years": years,
            "months": months,
            "weeks": weeks,
            "days": days,
            "hours": hours,
            "minutes": minutes,
            "seconds": seconds,
        }
        for name, value in values.items():
            allowed = (int, float) if name == "seconds" else (int,)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise InvalidError(f"Period: {name} must be {'a number' if name == 'seconds' else 'a whole number'}.")
            if value < 0:
                raise InvalidError(f"Period: {name} must not be negative.")
        self.parts = {name: value for name, value in values.items() if value}
        if not self.parts:
            raise InvalidError("Period: the interval must not be empty; say for instance modal.Period(hours=1).")

    def _to_spec(self) -> dict[str, Any]:
        return {"period": dict(self.parts)}

    def __repr__(self) -> str:
        return f"Period({', '.join(f'{name}={value}' for name, value in self.parts.items())})"
