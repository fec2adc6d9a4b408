"""Signals that the main thread must not miss."""

from __future__ import annotations

import os
import signal
import threading
import time

from intermodal.runner.inputs import CANCEL_SIGNAL

DELAYS = (0.005, 0.05, 0.25)  # seconds after a signal


class Nudges:
    """Interrupts the main thread some more times after a signal. Make it there; one other thread uses it.

    Python takes note of a signal at once and runs its handler in the main thread as soon as that comes to it. When the
    signal arrives just before that thread enters a system call (`time.sleep`, say), it enters, and stays for as long as
    the call lasts. That is frequent here: the thread that passes a cancellation on gets its turn at such moments.
    """

    def __init__(self) -> None:
        self.fd, told = os.pipe()  # tells of signals the moment they come
        os.set_blocking(self.fd, False)
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        if signal.getsignal(CANCEL_SIGNAL) is signal.SIG_DFL:
            signal.signal(CANCEL_SIGNAL, lambda _number, _frame: None)
        self._due: list[float] = []  # monotonic, the first one first

    def read(self) -> None:
        """There are signals."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return
        if signal.SIGINT in numbers:
            self.plan()

    def plan(self) -> None:
        """A signal was sent."""
        now = time.monotonic()
        self._due = [now + delay for delay in DELAYS]

    def next(self) -> float:
        """When `nudge` is to be called (monotonic)."""
        return self._due[0] if self._due else float("inf")

    def nudge(self) -> None:
        """Interrupt, if it is time. The signal means nothing by itself: see SerialExecutor."""
        now = time.monotonic()
        if self._due and self._due[0] <= now:
            self._due = [at for at in self._due if at > now]
            main = threading.main_thread().ident
            if main is not None and callable(signal.getsignal(CANCEL_SIGNAL)):
                signal.pthread_kill(main, CANCEL_SIGNAL)
