"""One input as it came, and what all that handle inputs agree on."""

from __future__ import annotations

import signal
from typing import NamedTuple

from modal._protocol.messages.call import CallFailure, pack_failure

CANCEL_SIGNAL = signal.SIGUSR1


class Input(NamedTuple):
    """One input as it came."""

    token: int
    input_id: str
    args: bytes
    blob: str
    method: str
    others: tuple[Input, ...] = ()  # of a batched function: the inputs that run together with this one
    express: bool = False  # it came by the express way

    @property
    def members(self) -> tuple[Input, ...]:
        """The inputs of this run."""
        return (self, *self.others) if self.others else (self,)


class NoMoreInputs(Exception):
    """The server wants nothing more of this container."""


def cancelled_failure() -> bytes:
    """The value of an input that was cancelled."""
    return pack_failure(CallFailure("cancelled", "modal.exception.InputCancellation", "the input was cancelled"))
