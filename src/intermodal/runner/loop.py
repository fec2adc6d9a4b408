"""Async functions: one event loop for the container's whole life, one or many inputs at once."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Optional

from intermodal.runner.express import Express
from intermodal.runner.hooks import Hooks
from intermodal.runner.inputs import Input, NoMoreInputs
from intermodal.runner.invoker import Invoker, NothingToRun, iterate
from intermodal.runner.link import Link
from intermodal.runner.loading import Service
from intermodal.runner.worker_way import RELINK_SECONDS
from modal import _context
from modal._protocol.errors import ConnectionLost, WireError

if TYPE_CHECKING:
    from intermodal.runner.web_side import WebSide

_input_id: contextvars.ContextVar[Optional[str]] = contextvars.ContextVar("modal_input_id", default=None)


class LoopExecutor:
    """Background tasks of the user's code go on between inputs: the loop never stops."""

    def __init__(self, service: Service, invoker: Invoker) -> None:
        self._service = service
        self._invoker = invoker
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._hooks = Hooks(service, self._loop)
        self._limit = max(1, service.spec.concurrent_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._end: Optional[BaseException] = None
        self._waiters: list[asyncio.Future[None]] = []  # generators that may not go on
        self._give_up: Optional[asyncio.TimerHandle] = None
        self._flush_due = False
        self._over: Optional[asyncio.Future[None]] = None
        self._served = 0
        self.interrupted = False  # by SIGINT: the container shall end
        self._web: Optional[WebSide] = None  # where the container answers requests from outside
        if service.serves_web():
            from intermodal.runner.web_side import WebSide

            self._web = WebSide(service, invoker.control)
        _context.set_task_lookup(_input_id.get)

    def enter(self) -> None:
        self._hooks.enter()
        if self._web is not None:
            self._web.call()
            asyncio.set_event_loop(self._loop)  # `asyncio.run` has unset it
            self._loop.run_until_complete(self._web.open(_input_id.set, self._fill))

    def exit(self) -> None:
        if self._web is not None:
            self._loop.run_until_complete(self._web.close())
        self._hooks.exit()

    def run(self) -> None:
        """Until NoMoreInputs, ConnectionLost or KeyboardInterrupt."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._loop.run_until_complete(self._serve())
        if self._end is not None:
            raise self._end

    async def _serve(self) -> None:
        self._over = self._loop.create_future()
        queue = self._invoker.queue
        queue.worker.on_relink = lambda: self._call_soon(self._watch)
        queue.on_arrival = lambda: self._call_soon(self._fill)
        queue.on_turn = lambda: self._call_soon(self._wake_generators)
        queue.express.on_open = lambda: self._call_soon(self._watch_express)
        self._watch()
        await self._over
        self._invoker.outbox.flush()

    def _call_soon(self, callback: Callable[[], object]) -> None:
        """From the control thread."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed: the container ends anyway

    def _watch(self) -> None:
        """Read from the worker that there is now."""
        link = self._invoker.queue.worker.link
        if link is None:
            return  # it went away again
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None
        self._loop.add_reader(link.socket.fileno(), self._readable, link)
        self._fill()

    def _watch_express(self) -> None:
        express = self._invoker.queue.express.take()
        if express is not None:
            self._loop.add_reader(express.link.socket.fileno(), self._express_readable, express)

    def _express_readable(self, express: Express) -> None:
        descriptor = express.link.socket.fileno()
        self._invoker.queue.express.receive()
        if self._invoker.queue.express.current is not express:
            self._loop.remove_reader(descriptor)
        self._fill()

    def _readable(self, link: Link) -> None:
        queue = self._invoker.queue
        try:
            queue.read_ready(link)
        except (OSError, WireError):
            self._loop.remove_reader(link.socket.fileno())
            queue.worker.lost(link)
            if queue.worker.link is None:
                lost = ConnectionLost("the worker is gone")
                self._give_up = self._loop.call_later(RELINK_SECONDS, self._finish, lost)
            return
        self._fill()

    def _finish(self, end: Optional[BaseException] = None) -> None:
        self._end = end
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _fill(self) -> None:
        """Start as many inputs as may run; end when there will be none."""
        limit = self._service.spec.max_inputs
        try:
            while len(self._tasks) < self._limit and not (limit and self._served >= limit):
                item = self._invoker.queue.take_waiting()
                if item is None:
                    return
                self._served += len(item.members)
                task = self._loop.create_task(self._run_one(item))
                self._tasks.add(task)
                task.add_done_callback(self._done)
        except NoMoreInputs as end:
            if not self._tasks and not (self._web is not None and self._web.busy):
                self._finish(end)
        if limit and self._served >= limit and not self._tasks:
            self._finish()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._flush_due:
            # Outputs that are ready in the same turn of the loop leave together.
            self._flush_due = True
            self._loop.call_soon(self._flush)
        self._fill()

    def _flush(self) -> None:
        self._flush_due = False
        self._invoker.outbox.flush()

    # -- one input
    async def _run_one(self, item: Input) -> None:
        invoker, queue = self._invoker, self._invoker.queue
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:  # called by the control thread
            self._call_soon(task.cancel)

        if not queue.begin(item, interrupt):
            invoker.refuse(item)
            return
        _input_id.set(item.input_id)
        started = time.perf_counter()
        run = item
        try:
            run, args, kwargs = invoker.arguments(item, started)
            function = self._service.find(item.method)
            if self._web is not None and not inspect.iscoroutinefunction(function):
                result = await self._loop.run_in_executor(  # requests must go on meanwhile
                    None, functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
                )
            else:
                result = function(*args, **kwargs)
            if inspect.isawaitable(result) and not hasattr(result, "__aiter__"):
                result = await result
            if hasattr(result, "__aiter__"):
                await self._iterate(item, result, started)
            elif self._service.is_generator(item.method):
                for _ in iterate(item, result, invoker, started):
                    await self._turn(item.token)
            else:
                invoker.succeed(run, result, started)
        except KeyboardInterrupt as error:
            if self.interrupted:
                raise
            invoker.fail(run, error, started)
        except NothingToRun:
            pass
        except BaseException as error:
            invoker.fail(run, error, started)
        finally:
            queue.finish(item)

    async def _iterate(self, item: Input, result: AsyncIterator[Any], started: float) -> None:
        number = 0
        async for part in result:
            self._invoker.yield_item(item, part, number)
            number += 1
            await self._turn(item.token)
        self._invoker.exhaust(item, started)

    async def _turn(self, token: int) -> None:
        """Wait until the generator may go on."""
        while not self._invoker.queue.may_yield(token):
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            if not self._invoker.queue.may_yield(token):  # nothing came in between
                await waiter

    def _wake_generators(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _on_interrupt(self, _number: int, _frame: Optional[FrameType]) -> None:
        """SIGINT: the container shall end. User code that is at work sees KeyboardInterrupt."""
        self.interrupted = True
        if asyncio.current_task(self._loop) is not None and not self._invoker.sending:
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._finish, KeyboardInterrupt())
