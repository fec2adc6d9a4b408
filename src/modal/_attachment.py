"""A client's hold on an app: its logs and figures, on a connection and in a thread of their own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

from modal._endpoint import CALL_PATIENCE, Endpoint, Patience, error_of
from modal._protocol.errors import ConnectionLost, Fault, ProtocolError, Unreachable

if TYPE_CHECKING:
    from modal._client import Client
    from modal._protocol import blocking
    from modal._protocol.frames import Frame
    from modal._protocol.message import Message
    from modal._protocol.messages.app import AppAttach

DRAIN_SECONDS = 2.0  # that a result waits at most for the log entries that came before it


class Attachment:
    """Calls `on_message` in a daemon thread with every LogBatch, CallStats and, last, AppEnded.

    It reconnects by itself and asks only for entries that it has not seen. `error` is set when it gave up.
    """

    def __init__(
        self, client: Client, endpoint: Endpoint, message: AppAttach, on_message: Callable[[Message], None]
    ) -> None:
        self.app_id = message.app_id
        self.error: Optional[Exception] = None
        self.ended = threading.Event()  # nothing comes any more
        self.attached = threading.Event()  # the server has heard of it (or the attachment ended)
        self.seq = message.from_seq  # entries that `on_message` has been given
        self._client = client
        self._endpoint = endpoint
        self._message = message
        self._on_message = on_message
        self._connection: Optional[blocking.Connection] = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._lags = False  # a result has waited in vain: the next ones do not, until something comes
        self._waiters: List[Tuple[int, Callable[[], object]]] = []
        client.attachments[self.app_id] = self
        self._thread = threading.Thread(target=self._run, name=f"modal-logs-{self.app_id}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let go of the app. May be called from any thread, and more than once."""
        self._closed.set()
        connection = self._connection
        if connection is not None:
            _shut(connection)
        if self._client.attachments.get(self.app_id) is self:
            del self._client.attachments[self.app_id]
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def wait_ended(self, timeout: Optional[float] = None) -> bool:
        """Wait for AppEnded (or for giving up)."""
        return self.ended.wait(timeout)

    async def drain(self, seq: int, timeout: float = DRAIN_SECONDS) -> bool:
        """Wait until entries up to `seq` have been shown, at most `timeout` seconds. False when they were not."""
        if self.seq >= seq or self.ended.is_set():
            return True
        if self._lags:
            return False
        from modal._sync import blocking

        if blocking():
            shown = threading.Event()
            self._when(seq, shown.set)
            self._lags = not shown.wait(timeout)
            return not self._lags
        import asyncio

        loop = asyncio.get_running_loop()
        reached = asyncio.Event()
        self._when(seq, lambda: loop.call_soon_threadsafe(reached.set))
        try:
            await asyncio.wait_for(reached.wait(), timeout)
        except asyncio.TimeoutError:
            self._lags = True
            return False
        return True

    def _when(self, seq: int, call: Callable[[], object]) -> None:
        with self._lock:
            if self.seq < seq and not self.ended.is_set():
                self._waiters.append((seq, call))
                return
        call()

    def _reached(self, seq: int) -> None:
        with self._lock:
            self.seq = max(self.seq, seq)
            self._lags = False
            if not self._waiters:
                return
            over = self.ended.is_set()
            due = [call for wanted, call in self._waiters if over or wanted <= self.seq]
            self._waiters = [(wanted, call) for wanted, call in self._waiters if not over and wanted > self.seq]
        for call in due:
            try:
                call()
            except RuntimeError:  # its event loop was closed meanwhile: nobody waits
                continue

    # -- the thread
    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:
            self.error = error
        finally:
            self.ended.set()
            self.attached.set()
            self._reached(self.seq)

    def _follow(self) -> None:
        waiting: Optional[Patience] = None
        while not self._closed.is_set():
            try:
                if self._receive_all():
                    return
                waiting = None
            except (ConnectionLost, Unreachable) as error:
                if self._closed.is_set():
                    return
                if self._connection is not None:  # it was attached until now: patience begins anew
                    waiting = None
                waiting = waiting or Patience(self._endpoint, CALL_PATIENCE)
                delay = waiting.next(error)
                if delay < 0:
                    from modal import _embedded

                    _embedded.start()
                else:
                    self._closed.wait(delay)
            except Fault as fault:
                raise error_of(fault.code, fault.text) from None
            except ProtocolError as error:
                raise error_of("internal", str(error)) from None
            finally:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None

    def _receive_all(self) -> bool:
        """One connection's worth. True when the app ended or the stored entries are all there."""
        connection = self._endpoint.dial()
        self._connection = connection
        if self._closed.is_set():
            return True
        connection.on_note = self._take_note
        self._message.from_seq = self.seq
        stream = connection.open(self._message)
        self.attached.set()
        for message in stream:
            if self._take(message):
                return True
        return True  # END without AppEnded: stored entries only were asked for

    def _take_note(self, frame: Frame) -> None:
        from modal._protocol.message import decode

        self._take(decode(frame.type, frame.header, frame.body))

    def _take(self, message: Message) -> bool:
        from modal._protocol.messages.app import AppEnded
        from modal._protocol.messages.log import LogBatch

        if self._closed.is_set():
            return True
        self._on_message(message)
        if isinstance(message, LogBatch):
            self._reached(message.seq)
        return isinstance(message, AppEnded)


def _shut(connection: blocking.Connection) -> None:
    """Wake the thread that reads from it."""
    import socket

    try:
        connection.socket.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it was gone already
