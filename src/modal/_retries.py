"""How failed inputs are tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Union

from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._protocol.messages.function import Retry

MAX_RETRIES = 10
MAX_DELAY = 60.0  # seconds


class Retries:
    """Adds a retry policy to a Modal function.

    **Usage**

    ```python
    # Basic configuration: at most 5 retries, 1 second apart
    @app.function(retries=5)
    def f():
        pass

    # Fixed-interval retries with a 10 s delay
    @app.function(retries=modal.Retries(max_retries=3, backoff_coefficient=1.0, initial_delay=10.0))
    def g():
        pass

    # Exponential backoff, with retry delay doubling after each error
    @app.function(retries=modal.Retries(max_retries=4, backoff_coefficient=2.0, initial_delay=1.0))
    def h():
        pass
    ```
    """

    def __init__(
        self,
        *,
        # The maximum number of retries that can be made in the presence of failures.
        max_retries: int,
        # Coefficent controlling how much the retry delay increases each retry attempt.
        # A backoff coefficient of 1.0 creates fixed-delay where the delay period always equals the initial delay.
        backoff_coefficient: float = 2.0,
        # Number of seconds that must elapse before the first retry occurs.
        initial_delay: float = 1.0,
        # Maximum length of retry delay in seconds, preventing the delay from growing infinitely.
        max_delay: float = 60.0,
    ) -> None:
        """Construct a new retries policy: exponential or fixed-interval delays, by the backoff coefficient."""
        number: Any = max_retries
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_RETRIES:
            raise InvalidError(f"Retries: max_retries must be a whole number from 0 to {MAX_RETRIES}.")
        if not 1.0 <= backoff_coefficient <= 10.0:
            raise InvalidError("Retries: backoff_coefficient must be between 1.0 and 10.0.")
        if not 0.0 <= initial_delay <= MAX_DELAY:
            raise InvalidError(f"Retries: initial_delay must be between 0 and {MAX_DELAY:.0f} seconds.")
        if not 1.0 <= max_delay <= MAX_DELAY:
            raise InvalidError(f"Retries: max_delay must be between 1 and {MAX_DELAY:.0f} seconds.")
        self.max_retries = max_retries
        self.backoff_coefficient = float(backoff_coefficient)
        self.initial_delay = float(initial_delay)
        self.max_delay = float(max_delay)

    def __repr__(self) -> str:
        return (
            f"Retries(max_retries={self.max_retries}, backoff_coefficient={self.backoff_coefficient}, "
            f"initial_delay={self.initial_delay}, max_delay={self.max_delay})"
        )


def retry_spec(retries: Optional[Union[int, Retries]]) -> Optional[Retry]:
    """What is given as `retries=` in the form that the server keeps. A number means that many, 1 s apart."""
    if retries is None:
        return None
    from modal._protocol.messages.function import Retry

    if isinstance(retries, Retries):
        return Retry(retries.max_retries, retries.backoff_coefficient, retries.initial_delay, retries.max_delay)
    if isinstance(retries, bool) or not isinstance(retries, int):
        raise InvalidError(f"retries must be a number or a modal.Retries, not {type(retries).__name__}.")
    if not 0 <= retries <= MAX_RETRIES:
        raise InvalidError(f"retries must be from 0 to {MAX_RETRIES}, not {retries}.")
    return Retry(retries, 1.0, 1.0, 60.0)
