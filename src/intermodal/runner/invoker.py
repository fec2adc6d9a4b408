"""What all executors share: arguments in, user code, outputs out."""

from __future__ import annotations

import time
from typing import Any, Iterator

from intermodal.runner.control import Control
from intermodal.runner.input_queue import InputQueue
from intermodal.runner.inputs import Input, cancelled_failure
from intermodal.runner.loading import Service
from intermodal.runner.outbox import Outbox
from intermodal.runner.streams import PrintedStreams
from intermodal.runner.values import Values
from modal._protocol.messages.call import Status, pack_failure


class NothingToRun(Exception):
    """Every input of a batch has failed before the run."""


class Invoker:
    """`sending` is true while an output is under way: a signal handler must not raise there."""

    def __init__(
        self,
        service: Service,
        queue: InputQueue,
        outbox: Outbox,
        values: Values,
        printed: PrintedStreams,
        control: Control,
    ) -> None:
        self.service = service
        self.queue = queue
        self.outbox = outbox
        self.values = values
        self.control = control
        self.sending = False
        self._printed = printed

    def name(self, item: Input) -> str:
        """The function, or the class and the method, for messages."""
        return f"{self.service.spec.name}.{item.method}" if item.method else self.service.spec.name

    def arguments(self, item: Input, started: float) -> tuple[Input, tuple[Any, ...], dict[str, Any]]:
        """What runs, with its positional and keyword arguments. Raises whatever unpickling raises.

        Of a batch, those run whose arguments fit; the others have failed alone. Raises NothingToRun without any.
        """
        if self.service.is_batched(item.method):
            return self._batched_arguments(item, started)
        args, kwargs = self.values.read(item.args, item.blob)
        return item, args, kwargs

    def _batched_arguments(self, item: Input, started: float) -> tuple[Input, tuple[Any, ...], dict[str, Any]]:
        """One list for each parameter, with an element for each input."""
        import inspect

        signature = inspect.signature(self.service.find(item.method))
        columns: list[dict[str, Any]] = []
        members: list[Input] = []
        for one in item.members:
            try:
                args, kwargs = self.values.read(one.args, one.blob)
                bound = signature.bind(*args, **kwargs)
            except Exception as error:
                self._fail_one(one, error, started)
                continue
            bound.apply_defaults()
            columns.append(bound.arguments)
            members.append(one)
        if not members:
            raise NothingToRun
        positional, named = [], {}
        for name, parameter in signature.parameters.items():
            column = [arguments[name] for arguments in columns]
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                if any(column):
                    raise TypeError(f"{self.name(item)} is batched: its parameters must have names, not {parameter}")
            elif parameter.kind is parameter.KEYWORD_ONLY:
                named[name] = column
            else:
                positional.append(column)
        return members[0]._replace(others=tuple(members[1:])), tuple(positional), named

    def succeed(self, item: Input, result: Any, started: float) -> None:
        """Send a result; one that cannot be pickled is the input's failure."""
        self.sending = True
        try:
            if self.service.is_batched(item.method):
                self._succeed_batch(item, result, started)
            else:
                self._succeed_one(item, result, started)
        finally:
            self.sending = False

    def _succeed_batch(self, item: Input, results: Any, started: float) -> None:
        """Each caller its own element; an element that is an exception is raised at its caller."""
        members = item.members
        if not isinstance(results, (list, tuple)) or len(results) != len(members):
            got = f"a list of {len(results)}" if isinstance(results, (list, tuple)) else type(results).__name__
            error = TypeError(
                f"{self.name(item)} is batched: for {len(members)} inputs it must return a list of "
                f"{len(members)} results, not {got}"
            )
            for one in members:
                self._fail_one(one, error, started)
            return
        for one, result in zip(members, results):  # noqa: B905 - Python 3.9
            if isinstance(result, BaseException):
                self._fail_one(one, result, started)
            else:
                self._succeed_one(one, result, started)

    def _succeed_one(self, item: Input, result: Any, started: float) -> None:
        try:
            value, blob = self.values.write(result)
        except Exception as error:
            self._fail_one(item, error, started)
            return
        self._put(item, Status.SUCCESS, value, blob, time.perf_counter() - started)

    def yield_item(self, item: Input, result: Any, number: int) -> None:
        """Send one item of a generator at once. Raises where it cannot be pickled."""
        self.sending = True
        try:
            value, blob = self.values.write(result)
            self._printed.take()
            self.outbox.put(item.token, Status.YIELDED, value, blob, 0.0, item.input_id, number)
            self.outbox.flush()
        finally:
            self.sending = False

    def exhaust(self, item: Input, started: float) -> None:
        """The generator ended."""
        self.sending = True
        try:
            self._put(item, Status.EXHAUSTED, b"", "", time.perf_counter() - started)
            self.outbox.flush()
        finally:
            self.sending = False

    def fail(self, item: Input, error: BaseException, started: float) -> None:
        """Send what user code raised."""
        self.sending = True
        try:
            for one in item.members:
                self._fail_one(one, error, started)
        finally:
            self.sending = False

    def refuse(self, item: Input) -> None:
        """It was cancelled before it began."""
        self._put(item, Status.TERMINATED, cancelled_failure(), "", 0.0)

    def _fail_one(self, item: Input, error: BaseException, started: float) -> None:
        from modal._serialization import failure_of

        if self.queue.is_cancelled(item.token):
            self._put(item, Status.TERMINATED, cancelled_failure(), "", 0.0)
        else:
            value = pack_failure(failure_of(error))
            self._put(item, Status.FAILURE, value, "", time.perf_counter() - started)

    def _put(self, item: Input, status: int, value: bytes, blob: str, seconds: float) -> None:
        """A final output. What the input printed is on its way before it, and what the next one prints after it."""
        if item.token and self.queue.is_answered(item.token) and status != Status.TERMINATED:
            return  # it was cancelled while the rest of its batch went on
        printed = self._printed.take()
        express = item.express and not printed and not blob and self._printed.quiet(seconds)
        self.outbox.put(item.token, status, value, blob, seconds, item.input_id, express=express)
        if printed:
            self.outbox.flush()


def iterate(item: Input, result: Any, invoker: Invoker, started: float) -> Iterator[None]:
    """Run a generator to its end; stops after each item, for the caller to see whether it may go on."""
    if hasattr(result, "__aiter__"):
        result = _items_of(result)
    if not hasattr(result, "__iter__"):
        raise TypeError(f"{invoker.name(item)} is a generator function but returned {type(result).__name__}")
    for number, part in enumerate(result):
        invoker.yield_item(item, part, number)
        yield
    invoker.exhaust(item, started)


def _items_of(result: Any) -> Iterator[Any]:
    """The items of an async generator that a plain function has returned (`is_generator=True`)."""
    import asyncio

    loop = asyncio.new_event_loop()
    items = result.__aiter__()
    try:
        while True:
            try:
                item = loop.run_until_complete(_next(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        if hasattr(items, "aclose"):
            loop.run_until_complete(items.aclose())
        loop.close()


async def _next(items: Any) -> Any:
    return await items.__anext__()
