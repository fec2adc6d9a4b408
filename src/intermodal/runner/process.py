"""The container's main process from its first breath to its last."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn, Optional

from intermodal.runner import ending
from intermodal.runner.control import Control
from intermodal.runner.link import Link
from intermodal.runner.outbox import Outbox
from intermodal.runner.streams import PrintedStreams, attach_streams
from modal import _context
from modal._protocol.errors import ConnectionLost, ProtocolError
from modal._protocol.frames import Frame
from modal._protocol.messages.worker import (
    EXIT_INIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_LOST,
    RunnerFailed,
    RunnerReady,
    RunnerStart,
)

EXIT_HOOK_FAILED = 1


def run(run_dir: str, marks: dict[str, float]) -> None:
    """Connect, load, serve, end. Never returns."""
    printed = attach_streams()
    path = os.path.join(run_dir, "runner.sock")
    try:
        data = Link(path, "runner")
        start, early = data.welcome()
    except (OSError, ConnectionLost) as error:
        _end_without_worker(error)
    if not isinstance(start, RunnerStart):
        raise ProtocolError("the worker does not know this container")
    marks["connected"] = time.time()
    _context.enter_container(start.spec)
    os.environ[_context.APP_VARIABLE] = start.spec.app_id
    code = _serve(start, data, early, path, run_dir, marks, printed)
    ending.end(code)


def _serve(
    start: RunnerStart,
    data: Link,
    early: list[Frame],
    path: str,
    run_dir: str,
    marks: dict[str, float],
    printed: PrintedStreams,
) -> int:
    from intermodal.runner import forks, loading
    from intermodal.runner.input_queue import InputQueue
    from intermodal.runner.inputs import NoMoreInputs
    from intermodal.runner.invoker import Invoker
    from intermodal.runner.values import Values

    outbox = Outbox(data)
    queue = InputQueue(data, outbox)
    try:
        control = Control(path, start.spec, queue, outbox)
    except OSError as error:
        _end_without_worker(error)
    control.start()
    values = Values(os.path.join(run_dir, "values"))
    asked = _ask_on_interrupt()
    try:
        service = loading.load(start.spec)
        marks["imported"] = time.time()
        invoker = Invoker(service, queue, outbox, values, printed, control)
        forks.watch(invoker)
        executor = _executor(service, invoker)
        executor.enter()
        if forks.is_child():
            forks.end(None)
    except BaseException as error:
        if forks.is_child():
            forks.end(error)
        if asked.is_set():
            return EXIT_INTERRUPTED  # asked to end while it started, whatever the user's code has made of that
        _report_failure(outbox, error)
        return EXIT_INIT_FAILED
    try:
        marks["ready"] = time.time()
        control.ready = True
        _context.stop_fetching = lambda: None if forks.is_child() else queue.stop_fetching()
        outbox.tell(RunnerReady(marks))
        queue.worker.feed(early, data)
        executor.run()
        code = 0
    except NoMoreInputs:
        code = 0
    except ConnectionLost:
        code = EXIT_LOST
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED if executor.interrupted else 0  # else a task of the user's code has raised it
    if forks.is_child():
        forks.end(KeyboardInterrupt() if executor.interrupted else None)
    # From here on a second interrupt ends the process at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    outbox.flush()
    try:
        executor.exit()
    except BaseException as error:
        ending.show(error)
        code = code if code == EXIT_INTERRUPTED else EXIT_HOOK_FAILED
    ending.tell_of_threads()
    return code


def _ask_on_interrupt() -> threading.Event:
    """SIGINT interrupts the user's code; set when it has come. (User code may raise KeyboardInterrupt itself.)"""
    asked = threading.Event()

    def on_interrupt(_number: int, _frame: Optional[FrameType]) -> None:
        asked.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    return asked


def _end_without_worker(error: Exception) -> NoReturn:
    """The worker went away before this container was known to it: the next one has it started anew."""
    print(f"The container ends: its worker cannot be reached ({error}).", file=sys.stderr)  # noqa: T201
    ending.end_at_once(EXIT_LOST)


def _executor(service: Any, invoker: Any) -> Any:
    """One input at a time in the main thread, threads, or an event loop: as the function needs."""
    if service.is_async():
        from intermodal.runner.loop import LoopExecutor

        return LoopExecutor(service, invoker)
    if service.spec.concurrent_max > 1:
        from intermodal.runner.threads import ThreadExecutor

        return ThreadExecutor(service, invoker)
    from intermodal.runner.serial import SerialExecutor

    return SerialExecutor(service, invoker)


def _report_failure(outbox: Outbox, error: BaseException) -> None:
    from modal._serialization import failure_of

    failure = failure_of(error)
    print(failure.traceback or failure.text, file=sys.stderr, end="" if failure.traceback.endswith("\n") else "\n")  # noqa: T201
    ending.flush_streams()
    outbox.tell(RunnerFailed(failure))
