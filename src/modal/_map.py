"""`.map` and what is made of it: inputs are pulled, sent, answered and yielded by one loop in the caller's thread.

How much is under way is bounded: `MAP_IN_FLIGHT` inputs and `BYTES_IN_FLIGHT` bytes of arguments. Inputs
travel in batches that begin with one and double while the iterator keeps up, so the first ones wait for
nobody, and what an iterator slower than `LINGER` gave is sent while it is still at the next item. Results that
wait for an earlier one are kept, `BYTES_EARLY` of them at most: then no more inputs are sent until that one comes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import count, repeat
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
    Deque,
    Dict,
    Iterable,
    Iterator,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from modal._call_stream import CallStream, Packed, Target
from modal._protocol.messages.call import BATCH_BYTES, BATCH_INPUTS, INLINE_LIMIT, MAP_IN_FLIGHT, Outputs, Status
from modal._results import failure, pack, shown
from modal._sync import blocking, sleep
from modal._sync import run as run_blocking

if TYPE_CHECKING:
    from modal._client import Client

BYTES_IN_FLIGHT = 64 << 20  # bytes of arguments; one input may pass it
BYTES_EARLY = 64 << 20  # bytes of results that wait for an earlier one
EARLY_COST = 256  # bytes that such a result takes besides its value, about
LINGER = 0.001  # seconds after which a message is not filled any further
WATCH_SECONDS = 0.005  # that an iterator may take for an item before what it gave earlier is sent
QUEUE = 2 * BATCH_INPUTS  # items that are taken ahead from async iterators

Arguments = Tuple[Sequence[Any], Dict[str, Any]]
_NOT_YET: Any = object()
_INSTANT = (list, tuple, range, dict, set, frozenset, str, bytes, repeat, count)  # never make anybody wait


class Source:
    """Where a map's inputs come from: plain iterators, advanced in the caller's thread.

    `instant`: they never wait for anything.
    """

    def __init__(self, items: Iterator[Sequence[Any]], kwargs: Dict[str, Any], *, instant: bool) -> None:
        self.instant = instant
        self._items = items
        self._kwargs = kwargs

    def take(self) -> Arguments:
        """The next input. Raises StopIteration, and what the iterator raises."""
        return next(self._items), self._kwargs

    async def items(self) -> AsyncIterator[Arguments]:
        """All inputs one after the other."""
        for args in self._items:
            yield args, self._kwargs

    def start(self, _wake: Any) -> None:
        """Called once, before the first `take`."""

    async def close(self) -> None:
        """Nobody wants more."""


class AsyncSource(Source):
    """Async iterators, advanced by a task that keeps a little ahead (async face only)."""

    def __init__(self, items: AsyncIterator[Sequence[Any]], kwargs: Dict[str, Any]) -> None:
        self.instant = True  # `take` never waits
        self._async_items = items
        self._kwargs = kwargs
        self._queue: Deque[Sequence[Any]] = deque()
        self._task: Any = None
        self._space: Any = None
        self._wake: Any = None

    def take(self) -> Arguments:
        """As `Source.take`; `_NOT_YET` when the iterator is still at it."""
        if self._queue:
            args = self._queue.popleft()
            if len(self._queue) < BATCH_INPUTS:
                self._space.set()
            return args, self._kwargs
        if not self._task.done():
            return _NOT_YET  # type: ignore[no-any-return]
        self._task.result()
        raise StopIteration

    async def items(self) -> AsyncIterator[Arguments]:
        _refuse_in_blocking_face()
        async for args in self._async_items:
            yield args, self._kwargs

    def start(self, wake: Any) -> None:
        import asyncio

        self._wake = wake
        self._space = asyncio.Event()
        self._task = asyncio.ensure_future(self._fill())
        self._task.add_done_callback(lambda _task: wake())

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            import asyncio

            self._task.cancel()
            await asyncio.wait({self._task})

    async def _fill(self) -> None:
        async for args in self._async_items:
            self._queue.append(args)
            self._wake()
            if len(self._queue) >= QUEUE:
                self._space.clear()
                await self._space.wait()


def sources(iterators: Sequence[Any], kwargs: Dict[str, Any]) -> Source:
    """The inputs of `map(*iterators)`: one iterator a parameter, as far as the shortest goes."""
    if not any(hasattr(iterator, "__aiter__") for iterator in iterators):
        return Source(iter(zip(*iterators)), kwargs, instant=all(type(one) in _INSTANT for one in iterators))
    _refuse_in_blocking_face()
    return AsyncSource(_zip(iterators), kwargs)


def star_source(items: Any, kwargs: Dict[str, Any]) -> Source:
    """The inputs of `starmap(items)`: each item holds the positional arguments of one."""
    if not hasattr(items, "__aiter__"):
        return Source(map(_spread, items), kwargs, instant=type(items) in _INSTANT)
    _refuse_in_blocking_face()
    return AsyncSource(_spread_all(items), kwargs)


def _refuse_in_blocking_face() -> None:
    if blocking():
        from modal.exception import InvalidError

        raise InvalidError("An async iterator needs an event loop: use the `.aio` form, like `f.map.aio(…)`.")


def _spread(item: Any) -> Sequence[Any]:
    try:
        return tuple(item)
    except TypeError:
        from modal.exception import InvalidError

        raise InvalidError(
            f"starmap spreads each item over the function's parameters, but {item!r:.100} is no sequence. "
            "Pass tuples, or use map."
        ) from None


async def _spread_all(items: AsyncIterator[Any]) -> AsyncIterator[Sequence[Any]]:
    async for item in items:
        yield _spread(item)


async def _zip(iterators: Sequence[Any]) -> AsyncIterator[Sequence[Any]]:
    opened: list[Union[Iterator[Any], AsyncIterator[Any]]] = [
        iterator.__aiter__() if hasattr(iterator, "__aiter__") else iter(iterator) for iterator in iterators
    ]
    while True:
        args = []
        for iterator in opened:
            try:
                args.append(await iterator.__anext__() if hasattr(iterator, "__anext__") else next(iterator))
            except (StopIteration, StopAsyncIteration):
                return
        yield args


async def map_(
    client: Client,
    target: Target,
    source: Source,
    *,
    order_outputs: bool = True,
    return_exceptions: bool = False,
) -> AsyncIterator[Any]:
    """`.map`: the results, in the order of the inputs or as they come.

    The first exception (of an input, or of the iterator) is raised and what still runs is cancelled; with
    `return_exceptions` an input's exception is an item, wrapped in UserCodeException.
    """
    run = _Map(client, target, source, order_outputs, return_exceptions)
    try:
        run.begin()
        while True:
            while run.arrived:
                status, value, blob = run.arrived.popleft()
                if status == Status.SUCCESS:
                    yield await client.get_value(value, blob, run.what)
                elif return_exceptions:
                    from modal.exception import UserCodeException

                    yield UserCodeException(failure(status, value))
                else:
                    raise failure(status, value)
            if run.is_over:
                await run.call.finish()
                return
            await run.feed()
            await run.receive()
    finally:
        run.end()
        await source.close()


async def for_each(client: Client, target: Target, source: Source, *, ignore_exceptions: bool = False) -> None:
    """`.for_each`: a map whose results nobody wants."""
    async for _result in map_(client, target, source, order_outputs=False, return_exceptions=ignore_exceptions):
        continue


class _Map:
    """The state of one map."""

    def __init__(self, client: Client, target: Target, source: Source, ordered: bool, return_exceptions: bool) -> None:
        self.what = f"a result of {target.name}"
        self.arrived: Deque[Tuple[int, bytes, str]] = deque()  # outputs that may be yielded now
        self.call = CallStream(client, target, "map", self._wake)
        self._client = client
        self._target = target
        self._source = source
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self._early: Dict[int, Tuple[int, bytes, str]] = {}  # outputs whose predecessors are missing
        self._early_bytes = 0  # of these
        self._next = 0  # index of the output to be yielded next (ordered)
        self._count = 0  # inputs taken from the source
        self._done = 0  # inputs with an output
        self._bytes = 0  # of the arguments of unanswered inputs
        self._sizes: Dict[int, int] = {}  # of unanswered inputs with more than a few bytes
        self._exhausted = False  # the source has no more, or no more are wanted
        self._waits = False  # the source has nothing yet
        self._batch_size = 1
        self._batch: Dict[int, Packed] = {}  # taken from the source and not sent yet
        self._batch_bytes = 0
        self._flusher: Optional[_Flusher] = None
        self._blocking = blocking()
        self._event: Any = None  # set when the async source or the stream has something

    def begin(self) -> None:
        """Start an async source."""
        if not self._blocking:
            import asyncio

            self._event = asyncio.Event()
        elif not self._source.instant:
            self._flusher = _Flusher(self._flush_batch)
        self._source.start(self._wake)

    def end(self) -> None:
        """Cancel what is not answered."""
        if self._flusher is not None:
            self._flusher.close()
        self.call.close()

    @property
    def is_over(self) -> bool:
        """All inputs are answered and all outputs yielded."""
        return self._exhausted and not self.call.unanswered and not self.arrived

    @property
    def _has_room(self) -> bool:
        return (
            len(self.call.unanswered) < MAP_IN_FLIGHT
            and self._bytes < BYTES_IN_FLIGHT
            and self._early_bytes < BYTES_EARLY
        )

    async def feed(self) -> None:
        """Pull and send inputs until the source waits or ends, the window is full, or outputs have come."""
        self._waits = False
        if self._exhausted:
            return
        unanswered = len(self.call.unanswered)
        if unanswered > MAP_IN_FLIGHT - BATCH_INPUTS or (self._bytes >= BYTES_IN_FLIGHT and unanswered):
            return  # wait until there is room for a whole batch
        if self._early_bytes >= BYTES_EARLY:
            return  # until the output that the others wait for has come: it is under way
        if self._event is not None:
            self._event.clear()
        more = True
        while more and self._has_room:
            more = await self._send_batch()
            if not self._blocking:
                await sleep(0)  # lets the connection read
            if self.call.ready():
                return

    async def _send_batch(self) -> bool:
        """Fill one message, as far as the source is quick, and send it. False when the source has no more now."""
        began = time.monotonic()
        limit = min(self._batch_size, MAP_IN_FLIGHT - len(self.call.unanswered))
        quick = True
        while len(self._batch) < limit and self._batch_bytes < BATCH_BYTES and self._bytes < BYTES_IN_FLIGHT:
            try:
                item = self._take_item()
            except StopIteration:
                self._exhausted = True
                break
            if item is _NOT_YET:
                self._waits = True
                break
            packed = await pack(self._client, *item, self._target.app_id)
            self._batch[self._count] = packed
            self._sizes[self._count] = packed.size
            self._count += 1
            self._bytes += packed.size
            self._batch_bytes += len(packed.inline)
            if time.monotonic() - began > LINGER:
                quick = len(self._batch) == limit
                break
        if self._batch:
            self._batch_size = min(BATCH_INPUTS, self._batch_size * 2) if quick else max(1, len(self._batch))
            await self._flush_batch()
        if self._exhausted:
            await self.call.end()
        return not self._exhausted and not self._waits

    def _take_item(self) -> Arguments:
        if self._flusher is None or not self._batch:
            return self._source.take()
        return self._flusher.watch(self._source.take)

    async def _flush_batch(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, {}, 0
        if batch:
            await self.call.send(batch)

    async def receive(self) -> None:
        """Wait for outputs; return without any when the source has something first, or nothing is awaited."""
        if self._waits and self._event is not None:
            if not self.call.ready():
                await self._event.wait()
            if not self.call.ready():
                return
        if not self.call.unanswered:
            return
        while True:
            outputs = await self.call.receive()
            if outputs is None:
                return
            await shown(self._client, self._target.app_id, outputs.log_seq)
            self._take(outputs)
            if not self.call.unanswered or not self.call.ready():
                break
        self._tell_progress()

    def _take(self, outputs: Outputs) -> None:
        blobs: Iterable[str] = outputs.blobs or [""] * len(outputs.indexes)
        for index, status, value, blob in zip(outputs.indexes, outputs.statuses, outputs.values, blobs):
            self._bytes -= self._sizes.pop(index, 0)
            self._done += 1
            if status != Status.SUCCESS and not self._return_exceptions:
                self._exhausted = True  # it will be raised: send no more
            if not self._ordered:
                self.arrived.append((status, value, blob))
            elif index == self._next:
                self.arrived.append((status, value, blob))
                self._next += 1
                while self._early and self._next in self._early:
                    early = self._early.pop(self._next)
                    self._early_bytes -= _cost(early)
                    self.arrived.append(early)
                    self._next += 1
            else:
                early = self._early[index] = (status, value, blob)
                self._early_bytes += _cost(early)

    def _tell_progress(self) -> None:
        from modal import _events

        _events.sink().map_progress(str(id(self)), self._target.name, self._done, self._count)

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()


def _cost(output: Tuple[int, bytes, str]) -> int:
    """Bytes that keeping an output takes. A large value lies on a disk that has its bounds too."""
    _status, value, blob = output
    return EARLY_COST + len(value) + (INLINE_LIMIT if blob else 0)


class _Flusher:
    """Sends what is in the batch while the caller's iterator takes its time over the next item (blocking face).

    The lock belongs to the caller's thread but for the time that it spends in the iterator; whoever has it
    may use the batch and the connection.
    """

    def __init__(self, flush: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._flush = flush
        self._lock = threading.Lock()
        self._lock.acquire()
        self._pulls = 0
        self._pulling = False
        self._armed = threading.Event()
        self._closed = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread: Optional[threading.Thread] = None

    def watch(self, take: Callable[[], Arguments]) -> Arguments:
        """Call `take`; if that lasts, the batch is sent meanwhile. Raises what sending it raised."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="modal-map", daemon=True)
            self._thread.start()
        self._pulls += 1
        self._pulling = True
        if not self._armed.is_set():
            self._armed.set()
        self._lock.release()
        try:
            return take()
        finally:
            self._lock.acquire()
            self._pulling = False
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._armed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._armed.wait()
            pull = self._pulls
            if self._closed.wait(WATCH_SECONDS):
                return
            self._armed.clear()
            if self._pulls != pull:  # asked after clearing: a later pull may have found it still set
                self._armed.set()
                continue
            if self._pulling and self._lock.acquire(blocking=False):
                try:
                    if self._pulls == pull:
                        run_blocking(self._flush())
                except BaseException as error:  # for the caller's thread
                    self._error = error
                finally:
                    self._lock.release()


__all__ = ["AsyncSource", "Source", "for_each", "map_", "sources", "star_source"]
