"""What can go wrong on the wire, and the faults that one peer reports to the other."""

from __future__ import annotations


class WireError(Exception):
    """Any failure of the wire itself: the connection cannot go on."""


class ProtocolError(WireError):
    """The peer sent bytes that are no valid frame or message."""


class ConnectionLost(WireError):
    """The connection ended while something still waited on it."""


class Unreachable(WireError):
    """Nobody answers at the address."""


class Fault(Exception):
    """A failure that the peer reports in answer to a request; the connection goes on.

    `code` is stable and decides which exception of `modal.exception` the caller sees
    (see `Code`); `text` is for people and says what is wrong and what to do next.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Code:
    """The stable fault codes, and the exception of `modal.exception` each becomes."""

    AUTH = "auth"  # AuthError
    INVALID = "invalid"  # InvalidError
    NOT_FOUND = "not-found"  # NotFoundError
    EXECUTION = "execution"  # ExecutionError
    REMOTE = "remote"  # RemoteError: image builds and other failures of the platform's work
    TIMEOUT = "timeout"  # TimeoutError
    EXPIRED = "expired"  # OutputExpiredError
    EXHAUSTED = "exhausted"  # ResourceExhaustedError (a RemoteError): a documented limit is reached
    TOO_LARGE = "too-large"  # RequestSizeError
    VERSION = "version"  # VersionError
    CONFLICT = "conflict"  # AlreadyExistsError (an InvalidError)
    CANCELLED = "cancelled"  # the peer gave the request up
    INTERNAL = "internal"  # InternalFailure: a defect of the platform; the request may be tried again
