"""Async functions: one event loop for the container's whole life, one or many inputs at once."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from typing import Any, Callable, Optional

from intermodal.runner.inputs import RELINK_SECONDS, Input, Invoker, NoMoreInputs, cancelled_failure, iterate
from intermodal.runner.loading import Service
from modal import _context
from modal._protocol.errors import ConnectionLost, WireError
from modal._protocol.messages.call import Status

_input_id: contextvars.ContextVar[Optional[str]] = contextvars.ContextVar("modal_input_id", default=None)


class LoopExecutor:
    """Background tasks of the user's code go on between inputs: the loop never stops."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._limit = max(1, service.spec.concurrent_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: Optional[Exception] = None
        self._no_more: Optional[Exception] = None
        self._give_up: Optional[asyncio.TimerHandle] = None
        self._flush_due = False
        self._over: Optional[asyncio.Future[None]] = None
        self._served = 0
        _context.set_task_lookup(_input_id.get)

    def enter(self) -> None:
        for hook in self._service.enter_hooks:
            self._run_hook(hook)

    def exit(self) -> None:
        for hook in self._service.exit_hooks:
            self._run_hook(hook)

    def _run_hook(self, hook: Callable[[], Any]) -> None:
        result = hook()
        if inspect.isawaitable(result):

            async def wait() -> None:
                await result

            self._loop.run_until_complete(wait())

    def run(self) -> None:
        """Until NoMoreInputs, ConnectionLost or KeyboardInterrupt."""
        self._loop.run_until_complete(self._serve())
        if self._end is not None:
            raise self._end

    async def _serve(self) -> None:
        self._over = self._loop.create_future()
        queue = self._invoker.queue
        queue.on_relink = lambda: self._loop.call_soon_threadsafe(self._watch)
        self._watch()
        self._fill()
        await self._over
        self._invoker.outbox.flush()

    def _watch(self) -> None:
        """Read from the worker that there is now."""
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        self._loop.add_reader(self._invoker.queue.data.socket.fileno(), self._readable)

    def _readable(self) -> None:
        link = self._invoker.queue.data
        try:
            frames = link.read()
        except (OSError, WireError):
            self._loop.remove_reader(link.socket.fileno())
            self._give_up = self._loop.call_later(RELINK_SECONDS, self._finish, ConnectionLost("the worker is gone"))
            return
        try:
            self._invoker.queue.feed(frames)
        except NoMoreInputs as end:
            self._loop.remove_reader(link.socket.fileno())
            self._no_more = end
            if not self._tasks:
                self._finish(end)
        self._fill()

    def _finish(self, end: Optional[Exception] = None) -> None:
        self._end = end
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fill(self) -> None:
        """Start as many inputs as may run."""
        limit = self._service.spec.max_inputs
        while len(self._tasks) < self._limit and not (limit and self._served >= limit):
            item = self._invoker.queue.take_waiting()
            if item is None:
                return
            self._served += 1
            task = self._loop.create_task(self._run_one(item))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._flush_due:
            # Outputs that are ready in the same turn of the loop leave together.
            self._flush_due = True
            self._loop.call_soon(self._flush)
        self._fill()
        limit = self._service.spec.max_inputs
        if (self._no_more is not None or (limit and self._served >= limit)) and not self._tasks:
            self._finish(self._no_more)

    def _flush(self) -> None:
        self._flush_due = False
        self._invoker.outbox.flush()

    async def _run_one(self, item: Input) -> None:
        invoker, queue = self._invoker, self._invoker.queue
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:  # called by the control thread
            self._loop.call_soon_threadsafe(task.cancel)

        if not queue.begin(item, interrupt):
            invoker.outbox.put(item.token, Status.TERMINATED, cancelled_failure(), "", 0.0, item.input_id)
            return
        _input_id.set(item.input_id)
        started = time.perf_counter()
        try:
            args, kwargs = invoker.arguments(item)
            result = self._service.find(item.method)(*args, **kwargs)
            if inspect.isasyncgen(result) or hasattr(result, "__aiter__"):
                async for part in result:
                    invoker.yield_item(item, part)
                invoker.exhaust(item, started)
                return
            if inspect.isawaitable(result):
                result = await result
            if self._service.is_generator(item.method):
                if hasattr(result, "__aiter__"):
                    async for part in result:
                        invoker.yield_item(item, part)
                    invoker.exhaust(item, started)
                else:
                    iterate(item, result, invoker, started)
                return
            invoker.succeed(item, result, started)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            invoker.fail(item, error, started)
        finally:
            queue.finish(item)
