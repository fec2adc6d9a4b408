"""Several inputs at once in threads: sync functions with `@modal.concurrent`."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

from intermodal.runner.hooks import Hooks
from intermodal.runner.inputs import Input, NoMoreInputs, cancelled_failure
from intermodal.runner.invoker import Invoker, NothingToRun, iterate
from intermodal.runner.loading import Service
from modal import _context
from modal._protocol.messages.call import Status
from modal._protocol.messages.worker import EXIT_CANCELLED


class ThreadExecutor:
    """The main thread reads; workers run. Threads are made as inputs need them."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        hooks = Hooks(service)
        self.enter, self.exit = hooks.enter, hooks.exit
        self._tasks: SimpleQueue[Input] = SimpleQueue()
        self.interrupted = True  # by SIGINT, where the main thread is: no user code runs there
        self._threads = 0
        self._unfinished = 0  # inputs taken and not done
        self._done = threading.Condition()

    def run(self) -> None:
        """Until NoMoreInputs (what runs is finished first), ConnectionLost or KeyboardInterrupt."""
        served, limit = 0, self._service.spec.max_inputs
        try:
            while not limit or served < limit:
                item = self._invoker.queue.take()
                served += len(item.members)
                self._start(item)
        except NoMoreInputs:
            self._wait()
            raise
        self._wait()

    def _start(self, item: Input) -> None:
        with self._done:
            self._unfinished += 1
            busy = self._unfinished
        self._tasks.put(item)
        if busy > self._threads and self._threads < self._service.spec.concurrent_max:
            self._threads += 1
            threading.Thread(target=self._work, name=f"input-{self._threads}", daemon=True).start()

    def _wait(self) -> None:
        """Until all inputs are done."""
        with self._done:
            self._done.wait_for(lambda: self._unfinished == 0)
        self._invoker.outbox.flush()

    def _work(self) -> None:
        queue = self._invoker.queue
        while True:
            item = self._tasks.get()
            if queue.begin(item, self._interrupt):
                _context.set_thread_input(item.input_id)
                try:
                    self._run_one(item)
                finally:
                    _context.set_thread_input(None)
                    queue.finish(item)
            else:
                self._invoker.refuse(item)
            self._invoker.outbox.flush()
            with self._done:
                self._unfinished -= 1
                if not self._unfinished:
                    self._done.notify_all()

    def _run_one(self, item: Input) -> None:
        invoker = self._invoker
        started = time.perf_counter()
        run = item
        try:
            run, args, kwargs = invoker.arguments(item, started)
            result = self._service.find(item.method)(*args, **kwargs)
            if self._service.is_generator(item.method):
                for _ in iterate(item, result, invoker, started):
                    invoker.queue.wait_turn(item.token)
            else:
                invoker.succeed(run, result, started)
        except NothingToRun:
            pass
        except BaseException as error:
            invoker.fail(run, error, started)

    def _interrupt(self) -> None:
        """A thread cannot be interrupted: the documented consequence is the end of the container."""
        for item in self._invoker.queue.cancelled_running():
            for one in item.members:
                self._invoker.outbox.put(one.token, Status.TERMINATED, cancelled_failure(), "", 0.0, one.input_id)
        self._invoker.outbox.flush()
        os._exit(EXIT_CANCELLED)
