"""One input at a time, in the main thread: the quickest way, and what most functions want."""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Optional

from intermodal.runner.hooks import Hooks
from intermodal.runner.inputs import CANCEL_SIGNAL, Input
from intermodal.runner.invoker import Invoker, NothingToRun, iterate
from intermodal.runner.loading import Service
from modal import _context


class SerialExecutor:
    """Cancellation interrupts user code through a signal, as Ctrl-C would; never the sending of an output."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        hooks = Hooks(service)
        self.enter, self.exit = hooks.enter, hooks.exit
        self._token: Optional[int] = None  # the input that user code runs for, right now
        self._torn = ""  # the module whose import a cancellation has interrupted
        self.interrupted = False  # by SIGINT: the container shall end
        signal.signal(CANCEL_SIGNAL, self._on_cancel)

    def run(self) -> None:
        """Until NoMoreInputs, ConnectionLost or KeyboardInterrupt."""
        invoker = self._invoker
        queue = invoker.queue
        served, limit = 0, self._service.spec.max_inputs
        signal.signal(signal.SIGINT, self._on_interrupt)
        while not limit or served < limit:
            item = queue.take()
            if self.interrupted:
                raise KeyboardInterrupt
            if not queue.begin(item, self._interrupt):
                invoker.refuse(item)
                continue
            _context.set_main_input(item.input_id)
            try:
                self._run_one(item)
            finally:
                _context.set_main_input(None)
                queue.finish(item)
            served += len(item.members)
            if self.interrupted:
                raise KeyboardInterrupt
        invoker.outbox.flush()

    def _run_one(self, item: Input) -> None:
        invoker = self._invoker
        started = time.perf_counter()
        run = item
        try:
            run, args, kwargs = invoker.arguments(item, started)
            function = self._service.find(item.method)
            self._token = item.token
            try:
                self._check(item.token)
                result = function(*args, **kwargs)
                if self._service.is_generator(item.method):
                    self._iterate(item, result, started)
                    return
            finally:
                self._token = None
                if self._torn:
                    self._take_no_more()
            invoker.succeed(run, result, started)
        except KeyboardInterrupt as error:
            if self.interrupted:
                raise  # the container is asked to end: the input goes to another one
            invoker.fail(run, error, started)
        except NothingToRun:
            pass
        except BaseException as error:
            invoker.fail(run, error, started)
            if isinstance(error, SystemExit):
                invoker.outbox.flush()

    def _iterate(self, item: Input, result: object, started: float) -> None:
        for _ in iterate(item, result, self._invoker, started):
            self._check(item.token)
            self._invoker.queue.wait_turn(item.token)

    def _check(self, token: int) -> None:
        """What a signal asked for while an output was being sent."""
        if self.interrupted:
            raise KeyboardInterrupt
        if self._invoker.queue.is_cancelled(token):
            self._on_cancel(0, None)

    def _take_no_more(self) -> None:
        """What was imported by halves cannot always be imported again (NumPy, PyTorch): other inputs go elsewhere."""
        text = f"The container ends: its input was cancelled while it imported {self._torn}, which is there by halves."
        print(text, file=sys.stderr)  # noqa: T201
        self._torn = ""
        self._invoker.queue.stop_fetching()

    def _interrupt(self) -> None:
        """Called by the control thread."""
        os.kill(os.getpid(), CANCEL_SIGNAL)

    def _on_cancel(self, _number: int, frame: Optional[FrameType]) -> None:
        """Runs in the main thread, between two of the user's instructions."""
        token = self._token
        if token is not None and not self._invoker.sending and self._invoker.queue.is_cancelled(token):
            self._token = None
            self._torn = imported_by(frame)
            from modal.exception import InputCancellation

            raise InputCancellation("the input was cancelled")

    def _on_interrupt(self, _number: int, _frame: Optional[FrameType]) -> None:
        """SIGINT: the container shall end. User code sees KeyboardInterrupt."""
        self.interrupted = True
        if self._token is not None and not self._invoker.sending:
            self._token = None
            raise KeyboardInterrupt


def imported_by(frame: Optional[FrameType]) -> str:
    """The outermost module whose import is under way at this frame; "" where none is."""
    found = ""
    while frame is not None:
        if frame.f_code.co_name == "_load_unlocked" and frame.f_code.co_filename.startswith("<frozen importlib"):
            spec = frame.f_locals.get("spec")
            found = str(getattr(spec, "name", "a module"))
        frame = frame.f_back
    return found
