"""Several inputs at once in threads: sync functions with `@modal.concurrent`."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

from intermodal.runner.inputs import Input, Invoker, cancelled_failure, iterate
from intermodal.runner.loading import Service
from modal import _context
from modal._protocol.messages.call import Status

EXIT_CANCELLED = 72  # an input was cancelled: threads cannot be interrupted, so the container ends


class ThreadExecutor:
    """The main thread reads; workers run. Threads are made as inputs need them."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        self._tasks: SimpleQueue[Input] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        for hook in self._service.enter_hooks:
            hook()

    def exit(self) -> None:
        for hook in self._service.exit_hooks:
            hook()

    def run(self) -> None:
        """Until NoMoreInputs, ConnectionLost or KeyboardInterrupt."""
        served, limit = 0, self._service.spec.max_inputs
        while not limit or served < limit:
            self._tasks.put(self._invoker.queue.take())
            served += 1
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    continue
            if len(self._threads) < self._service.spec.concurrent_max:
                thread = threading.Thread(target=self._work, name=f"input-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            item = self._tasks.get()
            if self._invoker.queue.begin(item, self._interrupt):
                _context.set_thread_input(item.input_id)
                try:
                    self._run_one(item)
                finally:
                    _context.set_thread_input(None)
                    self._invoker.queue.finish(item)
            else:
                self._invoker.outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)
            self._invoker.outbox.flush()
            with self._lock:
                self._idle += 1

    def _run_one(self, item: Input) -> None:
        invoker = self._invoker
        started = time.perf_counter()
        try:
            args, kwargs = invoker.arguments(item)
            result = self._service.find(item.method)(*args, **kwargs)
            if self._service.is_generator(item.method):
                iterate(item, result, invoker, started)
            else:
                invoker.succeed(item, result, started)
        except BaseException as error:
            invoker.fail(item, error, started)

    def _interrupt(self) -> None:
        """A thread cannot be interrupted: the documented consequence is the end of the container."""
        for token in self._invoker.queue.running():
            if self._invoker.queue.is_cancelled(token):
                self._invoker.outbox.put(token, Status.TERMINATED, cancelled_failure())
        self._invoker.outbox.flush()
        os._exit(EXIT_CANCELLED)
