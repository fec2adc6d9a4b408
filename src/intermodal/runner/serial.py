"""One input at a time, in the main thread: the quickest way, and what most functions want."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Optional

from intermodal.runner.inputs import CANCEL_SIGNAL, Input, Invoker, cancelled_failure, iterate
from intermodal.runner.loading import Service
from modal import _context
from modal._protocol.messages.call import Status


class SerialExecutor:
    """Cancellation interrupts user code through a signal, as Ctrl-C would."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        self._token: Optional[int] = None  # the input that user code runs for, right now
        signal.signal(CANCEL_SIGNAL, self._on_cancel)

    def enter(self) -> None:
        for hook in self._service.enter_hooks:
            hook()

    def exit(self) -> None:
        for hook in self._service.exit_hooks:
            hook()

    def run(self) -> None:
        """Until NoMoreInputs, ConnectionLost or KeyboardInterrupt."""
        queue = self._invoker.queue
        served, limit = 0, self._service.spec.max_inputs
        while not limit or served < limit:
            item = queue.take()
            if not queue.begin(item, self._interrupt):
                self._invoker.outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)
                continue
            _context.set_main_input(item.input_id)
            try:
                self._run_one(item)
            finally:
                _context.set_main_input(None)
                queue.finish(item)
            served += 1
        self._invoker.outbox.flush()

    def _run_one(self, item: Input) -> None:
        invoker = self._invoker
        started = time.perf_counter()
        try:
            args, kwargs = invoker.arguments(item)
            function = self._service.find(item.method)
            self._token = item.token
            try:
                if invoker.queue.is_cancelled(item.token):
                    self._on_cancel(0, None)
                result = function(*args, **kwargs)
                if self._service.is_generator(item.method):
                    iterate(item, result, invoker, started)
                    return
            finally:
                self._token = None
            invoker.succeed(item, result, started)
        except KeyboardInterrupt:
            raise  # the container is asked to end: the input goes to another one
        except BaseException as error:
            invoker.fail(item, error, started)
            if isinstance(error, SystemExit):
                invoker.outbox.flush()

    def _interrupt(self) -> None:
        """Called by the control thread."""
        os.kill(os.getpid(), CANCEL_SIGNAL)

    def _on_cancel(self, _number: int, _frame: Optional[FrameType]) -> None:
        """Runs in the main thread, between two of the user's instructions."""
        token = self._token
        if token is not None and self._invoker.queue.is_cancelled(token):
            self._token = None
            from modal.exception import InputCancellation

            raise InputCancellation("the input was cancelled")
