"""Ctrl-C: once stops the app in order, twice ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

FORCE_SECONDS = 2.0  # for telling the server that nothing shall be waited for


class Interrupts:
    """The first Ctrl-C is Python's KeyboardInterrupt. From the moment at which the app stops, another one kills."""

    def __init__(self) -> None:
        self.broken = False  # nobody reads our output any more
        self.terminated = False  # by SIGTERM, which is treated like a Ctrl-C
        self._before: Any = None
        self._app_id = ""
        self._process = os.getpid()
        self._before_term = signal.signal(signal.SIGTERM, self._terminate)

    def pipe_broken(self) -> None:
        """`| head` has had enough: stop as if interrupted, without a word."""
        self.broken = True
        os.kill(os.getpid(), signal.SIGINT)

    def stopping(self, app_id: str) -> None:
        """The app is about to stop."""
        self._app_id = app_id
        if threading.current_thread() is threading.main_thread() and self._before is None:
            self._before = signal.signal(signal.SIGINT, self._kill)

    def restore(self) -> None:
        """The handling that was there before."""
        signal.signal(signal.SIGTERM, self._before_term)
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _terminate(self, _signal: int, _frame: Any) -> None:
        if os.getpid() != self._process:  # a child that the program has forked: it ends as any other would
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if self._before is None:  # a second one changes nothing
            self.terminated = True
            raise KeyboardInterrupt("terminated.")

    def _kill(self, _signal: int, _frame: Any) -> None:
        if self.broken:
            return
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one waits for nothing at all
        try:
            erase = b"\r\x1b[J" if os.isatty(2) and os.environ.get("TERM") != "dumb" else b"\n"
            os.write(2, erase + b"Killed: the app's containers are ended without waiting for them.\n")
        except OSError:
            pass
        worker = threading.Thread(target=self._force, daemon=True)
        worker.start()
        worker.join(FORCE_SECONDS)
        os._exit(130)

    def _force(self) -> None:
        from modal._protocol.messages.app import AppStop
        from modal._protocol.messages.wire import Done
        from modal.cli.server import ask
        from modal.exception import Error

        try:
            ask(AppStop(self._app_id, source="cli", force=True), Done)
        except Error:  # the server misses this client soon, and stops the app then
            return
