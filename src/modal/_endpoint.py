"""Where a client connects: the address, what it says there, and how long it waits when nobody answers."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Optional

from modal._protocol.errors import Code, Fault, ProtocolError, Unreachable, WireError

if TYPE_CHECKING:
    from modal._protocol import aio, blocking
    from modal._protocol.messages.wire import Hello, Welcome

CALL_PATIENCE = 300.0  # seconds that a call waits for a lost server
PATIENCE = 60.0  # seconds for everything else
FIRST_DELAY = 0.05  # seconds
MAX_DELAY = 2.0  # seconds
NOTICE_AFTER = 3.0  # seconds without the server before the user hears of it
REVIVE_AFTER = 2.0  # seconds before a crashed embedded server is started again

_EXCEPTIONS = {
    Code.AUTH: "AuthError",
    Code.INVALID: "InvalidError",
    Code.NOT_FOUND: "NotFoundError",
    Code.EXECUTION: "ExecutionError",
    Code.REMOTE: "RemoteError",
    Code.TIMEOUT: "TimeoutError",
    Code.EXPIRED: "OutputExpiredError",
    Code.EXHAUSTED: "ResourceExhaustedError",
    Code.TOO_LARGE: "RequestSizeError",
    Code.VERSION: "VersionError",
    Code.CONFLICT: "AlreadyExistsError",
    Code.CANCELLED: "RemoteError",
    Code.INTERNAL: "InternalFailure",
}


def error_of(code: str, text: str) -> Exception:
    """The documented exception for a fault's code; an unknown code (a newer server's) is a RemoteError."""
    from modal import exception

    made: Exception = getattr(exception, _EXCEPTIONS.get(code, "RemoteError"))(text)
    return made


def connection_error(text: str) -> Exception:
    from modal.exception import ConnectionError

    return ConnectionError(text)


class Endpoint:
    """One server as a client sees it. `embedded`: it is this machine's own, started when it is needed."""

    def __init__(self, url: str, token_id: str = "", token_secret: str = "", *, embedded: bool = False) -> None:
        from modal._protocol.address import parse

        try:
            self.address = parse(url)
        except ProtocolError as error:
            raise error_of(Code.INVALID, f"server_url: {error}") from None
        self.token_id = token_id
        self.token_secret = token_secret
        self.embedded = embedded
        self.welcome: Optional[Welcome] = None  # of the last connection
        self.values_dir = ""  # directory that this process and the server share for large values
        self._lock = threading.Lock()
        self._lost_at = 0.0  # monotonic time at which an outage began, 0.0 while the server answers
        self._noticed = False  # the user knows of the outage

    def hello(self, process: int = 0) -> Hello:
        from modal._protocol.frames import VERSION_MAX, VERSION_MIN
        from modal._protocol.messages.wire import Hello

        return Hello(
            "client",
            VERSION_MIN,
            VERSION_MAX,
            software=str(sys.modules["modal"].__dict__.get("__version__", "")),
            python=".".join(map(str, sys.version_info[:3])),
            token_id=self.token_id,
            token_secret=self.token_secret,
            process=process,
        )

    def dial(self) -> blocking.Connection:
        """One attempt. Raises Unreachable, or the documented exception when the server refuses."""
        from modal._protocol import blocking

        try:
            connection = blocking.connect(self.address, self.hello(os.getpid()))
        except Unreachable:
            raise
        except (Fault, WireError) as error:
            raise self._refused(error) from None
        self._answered(connection.welcome)
        return connection

    async def dial_aio(self) -> aio.Connection:
        """As `dial`, for the running event loop."""
        from modal._protocol import aio

        try:
            connection = await aio.connect(self.address, self.hello())
        except Unreachable:
            raise
        except (Fault, WireError) as error:
            raise self._refused(error) from None
        self._answered(connection.welcome)
        return connection

    def _refused(self, error: Exception) -> Exception:
        if isinstance(error, Fault):
            return error_of(error.code, error.text)
        if isinstance(error, ProtocolError):
            return connection_error(f"{self.address} does not speak Intermodal's protocol: {error}")
        return Unreachable(f"{self.address}: {error}")  # it went away while it greeted: worth another attempt

    def _answered(self, welcome: Any) -> None:
        shared = welcome.values_dir if self.address.scheme == "unix" else ""
        self.values_dir = shared if shared and os.access(shared, os.W_OK | os.X_OK) else ""
        self.welcome = welcome
        if self._lost_at:
            with self._lock:
                noticed, self._noticed, self._lost_at = self._noticed, False, 0.0
            if noticed:
                _notice("The server answers again.")

    def forked(self) -> None:
        """In a child process: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def lost(self) -> float:
        """Seconds since the server was last known to answer, counted from the first call."""
        with self._lock:
            now = time.monotonic()
            if not self._lost_at:
                self._lost_at = now
            return now - self._lost_at

    def tell_of_outage(self, seconds: float) -> None:
        """Tell the user once an outage that the client waits."""
        with self._lock:
            if self._noticed:
                return
            self._noticed = True
        how = " If it was stopped, `intermodal up` starts it." if self.embedded else ""
        _notice(f"The server at {self.address} does not answer; waiting up to {_minutes(seconds)} for it.{how}")

    @property
    def crashed(self) -> bool:
        """Whether the embedded server ended without taking its socket away, as an orderly stop does."""
        return self.embedded and os.path.exists(self.address.host)


class Patience:
    """How one request waits while the server is away."""

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        self._endpoint = endpoint
        self._seconds = seconds
        self._began = time.monotonic()
        self._delay = 0.0  # the first repetition is at once: often only a pooled connection was stale
        self._started = False

    def next(self, error: Exception) -> float:
        """Seconds to wait before the next attempt; negative: start the embedded server instead of waiting.

        Raises modal.exception.ConnectionError when the patience is at its end.
        """
        endpoint = self._endpoint
        waited = time.monotonic() - self._began
        outage = endpoint.lost()
        if isinstance(error, Unreachable):
            if endpoint.welcome is None and not _in_container():
                if endpoint.embedded and not self._started:
                    self._started = True
                    return -1.0
                raise connection_error(f"{error}. {self._advice()}")
            if endpoint.crashed and outage > REVIVE_AFTER and not self._started:
                self._started = True
                return -1.0
        if waited > self._seconds:
            raise connection_error(f"{error}. Gave up after {_minutes(self._seconds)}. {self._advice()}")
        if outage > NOTICE_AFTER:
            endpoint.tell_of_outage(self._seconds)
        delay, self._delay = self._delay, min(max(self._delay * 2, FIRST_DELAY), MAX_DELAY)
        return delay * (0.5 + os.urandom(1)[0] / 512)  # spreads clients

    def _advice(self) -> str:
        if self._endpoint.embedded:
            return "`intermodal status` says what runs, `intermodal up` starts it."
        return "Is the server up, and is `server_url` (MODAL_SERVER_URL) right?"


def _in_container() -> bool:
    from modal import _context

    return not _context.is_local()


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _notice(text: str) -> None:
    from modal import _events

    _events.sink().notice(text)
