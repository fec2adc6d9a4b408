"""Everything that Modal raises, and the warnings that it issues.

    Error
    ├── AuthError                 the token is missing, wrong or not allowed to do this
    ├── ClientClosed              the client was closed while something still used it
    ├── ConnectionError           the server cannot be reached
    ├── DeserializationError      a value cannot be read here (often: a library is missing)
    ├── ExecutionError            something cannot be done in the state that things are in
    ├── FilesystemExecutionError  a file operation in a container failed
    ├── InternalFailure           a defect of the platform; may be tried again
    ├── InvalidError              the program asks for something that is not allowed
    │   ├── AlreadyExistsError    the name is taken
    │   └── NotImplementedYetError  a documented feature that this version does not have yet
    ├── NotFoundError             the named object does not exist
    ├── RemoteError               the platform's work failed (an image build, say)
    │   └── ResourceExhaustedError  a documented limit is reached; try again later
    ├── RequestSizeError          a value is larger than a request may be
    ├── SandboxTerminatedError
    ├── SerializationError        a value cannot be sent
    ├── TimeoutError
    │   ├── FunctionTimeoutError, InteractiveTimeoutError, MountUploadTimeoutError
    │   └── OutputExpiredError, SandboxTimeoutError, VolumeUploadTimeoutError
    ├── UserCodeException         wraps an exception in the results of `map(return_exceptions=True)`
    └── VersionError              client and server are too far apart

`InputCancellation` is a BaseException on purpose; `DeprecationError`, `PendingDeprecationError` and
`ServerWarning` are warnings, in spite of their names.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType


class Error(Exception):
    """Base class for all Modal errors."""


class AuthError(Error):
    """Raised when a client has missing or invalid authentication."""


class ClientClosed(Error):
    """Raised when a client that was closed is used."""


class ConnectionError(Error):
    """Raised when an issue occurs while connecting to the Modal servers."""


class DeserializationError(Error):
    """Raised to provide more context when an error is encountered during deserialization."""


class ExecutionError(Error):
    """Raised when something unexpected happened during runtime."""


class FilesystemExecutionError(Error):
    """Raised when an unknown error is thrown during a container filesystem operation."""


class InternalFailure(Error):
    """Retriable internal error."""


class InvalidError(Error):
    """Raised when user does something invalid."""


class AlreadyExistsError(InvalidError):
    """Raised when an object of that name exists already."""


class NotImplementedYetError(InvalidError, builtins.NotImplementedError):
    """Raised by a documented feature that this version does not have yet."""


class NotFoundError(Error):
    """Raised when a requested resource was not found."""


class RemoteError(Error):
    """Raised when an error occurs on the Modal server."""


class ResourceExhaustedError(RemoteError):
    """Raised when a documented limit is reached, such as that on waiting inputs. Try again later."""


ResourceExhausted = ResourceExhaustedError


class RequestSizeError(Error):
    """Raised when an operation produces a request that is rejected by the server for being too large."""


class SandboxTerminatedError(Error):
    """Raised when a Sandbox is terminated for an internal reason."""


class SerializationError(Error):
    """Raised to provide more context when an error is encountered during serialization."""


class VersionError(Error):
    """Raised when the current client version of Modal is unsupported."""


class TimeoutError(Error, builtins.TimeoutError):
    """Base class for Modal timeouts. Also a builtin TimeoutError, which programs catch around `get(timeout=…)`."""


class FunctionTimeoutError(TimeoutError):
    """Raised when a Function exceeds its execution duration limit and times out."""


class InteractiveTimeoutError(TimeoutError):
    """Raised when interactive frontends time out while trying to connect to a container."""


class MountUploadTimeoutError(TimeoutError):
    """Raised when a Mount upload times out."""


class OutputExpiredError(TimeoutError):
    """Raised when the Output exceeds expiration and times out."""


class SandboxTimeoutError(TimeoutError):
    """Raised when a Sandbox exceeds its execution duration limit and times out."""


class VolumeUploadTimeoutError(TimeoutError):
    """Raised when a Volume upload times out."""


class UserCodeException(Error):
    """Stands for a failed input in the results of `map(return_exceptions=True)`.

    `UserCodeException(exc)`; the exception that the input raised is in `.exc` and `.__cause__`.
    """

    def __init__(self, exc: BaseException) -> None:
        super().__init__(exc)
        self.exc = exc
        self.__cause__ = exc


class ModuleNotMountable(Exception):
    """Raised when a local module has no files that could be sent to a container."""


class InputCancellation(BaseException):
    """Raised when the current input is cancelled by the task.

    Intentionally a BaseException instead of an Exception, so it won't get caught by unspecified user
    exception clauses that might be used for retries and other control flow.
    """


class DeprecationError(UserWarning):
    """UserWarning category emitted when a deprecated Modal feature or API is used."""


class PendingDeprecationError(UserWarning):
    """Soon to be deprecated feature."""


class ServerWarning(UserWarning):
    """Warning originating from the Modal server and re-issued in client code."""


def simulate_preemption(wait_seconds: int, jitter_seconds: int = 0) -> None:
    """Interrupt this process after `wait_seconds`, as a preemption would.

    First comes SIGINT (a KeyboardInterrupt); 30 seconds later a second interrupt that cannot be caught
    by its handler again, as SIGKILL cannot. Adds between zero and `jitter_seconds` seconds to the wait.
    Uses SIGALRM, so it works in the main thread of a Unix process only.
    """
    import random
    import signal

    if wait_seconds <= 0:
        raise InvalidError("simulate_preemption: wait_seconds must be greater than 0")
    if jitter_seconds < 0:
        raise InvalidError("simulate_preemption: jitter_seconds must not be negative")
    grace = 30.0  # seconds between the two interrupts

    def last(_signal: int, _frame: FrameType | None) -> Any:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt("simulated preemption: the grace period is over")

    def first(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, last)
        signal.setitimer(signal.ITIMER_REAL, grace)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGALRM, first)
    jitter = random.uniform(0, jitter_seconds)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds + jitter)
