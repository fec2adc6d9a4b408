"""Queues: messages from one function to another."""

from __future__ import annotations

import time
from functools import partial
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Iterable, Iterator, List, Optional, cast

from modal import _serialization
from modal._object import EPHEMERAL_OBJECT_HEARTBEAT_SLEEP
from modal._protocol.messages.object import Received
from modal._protocol.messages.object import Stored as StoredAnswer
from modal._protocol.messages.queue import (
    FOREVER,
    MAX_BODY,
    MAX_ITEM,
    MAX_ITEMS,
    MAX_PARTITION_KEY,
    MAX_TTL,
    QueueGet,
    QueueItems,
    QueuePut,
)
from modal._stored import Stored, new_token
from modal._sync import synchronized, synchronized_context_classmethod, synchronized_iterator
from modal.exception import DeserializationError, InvalidError, RequestSizeError

if TYPE_CHECKING:
    from modal._client import Client

_BATCH = 1000  # items of a `put_many` that are put at once
_PAGE = 100  # items that `iterate` asks for at once


class Queue(Stored):
    """Distributed, FIFO queue for data flow in Modal apps.

    The queue can contain any object serializable by `cloudpickle`, including Modal objects. It has up to 100,000
    partitions, each with up to 5,000 items of up to 1 MiB. A partition is cleared 24 hours after the last `put`, or
    sooner with `partition_ttl`. What was put survives restarts and crashes of the server. Consumers that wait are
    served in the order in which they came; an item whose consumer goes away before it arrives is at the head again.

    **Usage**

    ```python
    with modal.Queue.ephemeral() as my_queue:
        my_queue.put("some value")
        my_queue.put(123)

        assert my_queue.get() == "some value"
        assert my_queue.get() == 123

        my_queue.put(1, partition="foo")
        assert my_queue.get(partition="foo") == 1
    ```

    See [the guide](https://modal.com/docs/guide/dicts-and-queues).
    """

    _kind = "queue"

    @staticmethod
    def validate_partition_key(partition: Optional[str]) -> bytes:
        """The key as bytes, empty for the default partition. Raises InvalidError."""
        if partition is None:
            return b""
        if not isinstance(partition, str):
            raise InvalidError(f"A queue's partition key must be a string, not {type(partition).__name__}.")
        try:
            key = partition.encode()
        except UnicodeEncodeError:
            raise InvalidError(f"A queue's partition key must be text that UTF-8 has, not {partition!a}.") from None
        if not 0 < len(key) <= MAX_PARTITION_KEY:
            raise InvalidError(f"A queue's partition key must have 1 to {MAX_PARTITION_KEY} bytes, not {len(key)}.")
        return key

    @synchronized_context_classmethod
    async def ephemeral(
        cls,
        client: Optional[Client] = None,
        environment_name: Optional[str] = None,
        _heartbeat_sleep: float = EPHEMERAL_OBJECT_HEARTBEAT_SLEEP,
    ) -> AsyncIterator[Queue]:
        """Creates a new ephemeral queue within a context manager.

        ```python
        with modal.Queue.ephemeral() as q:
            q.put(123)
        ```

        ```python
        async with modal.Queue.ephemeral() as q:
            await q.put.aio(123)
        ```
        """
        async for made in cls._ephemeral(client, environment_name, _heartbeat_sleep):
            yield made

    @staticmethod
    def from_name(
        name: str,
        *,
        namespace: Any = None,
        environment_name: Optional[str] = None,
        create_if_missing: bool = False,
    ) -> Queue:
        """Reference a named Queue, creating if necessary, when it is first used.

        ```python
        q = modal.Queue.from_name("my-queue", create_if_missing=True)
        q.put(123)
        ```
        """
        return Queue._named(name, environment_name, create_if_missing)  # type: ignore[no-any-return]

    @synchronized
    @staticmethod
    async def delete(name: str, *, client: Optional[Client] = None, environment_name: Optional[str] = None) -> None:
        """Delete a named Queue, with all that is in it. Raises NotFoundError."""
        await Queue._delete(name, client, environment_name)

    @synchronized
    async def clear(self, *, partition: Optional[str] = None, all: bool = False) -> None:
        """Clear the contents of a single partition or all partitions."""
        from modal._protocol.messages.object import ObjectClear
        from modal._protocol.messages.wire import Done

        if partition is not None and all:
            raise InvalidError("Queue.clear: give either a partition or all=True.")
        key = self.validate_partition_key(partition)
        client = await self._ready()
        await client.request(ObjectClear(self.object_id, key, all), Done)

    @synchronized
    async def get(
        self, block: bool = True, timeout: Optional[float] = None, *, partition: Optional[str] = None
    ) -> Optional[Any]:
        """Remove and return the next object in the queue.

        If `block` is `True` (the default) and the queue is empty, `get` will wait indefinitely for
        an object, or until `timeout` (seconds) if specified. Raises a native `queue.Empty` exception
        if the `timeout` is reached.

        If `block` is `False`, `get` returns `None` immediately if the queue is empty. The `timeout` is
        ignored in this case.
        """
        return await self._get(_first, 1, block, timeout, partition)

    @synchronized
    async def get_many(
        self, n_values: int, block: bool = True, timeout: Optional[float] = None, *, partition: Optional[str] = None
    ) -> list[Any]:
        """Remove and return up to `n_values` objects from the queue.

        If there are fewer than `n_values` items in the queue, return all of them.

        If `block` is `True` (the default) and the queue is empty, `get` will wait indefinitely for
        at least 1 object to be present, or until `timeout` if specified. Raises the stdlib's `queue.Empty`
        exception if the `timeout` is reached.

        If `block` is `False`, `get` returns an empty list immediately if the queue is empty. The `timeout` is
        ignored in this case.
        """
        given: Any = n_values
        if not isinstance(given, int) or given < 0:
            raise InvalidError(f"Queue.get_many: n_values must be a number of items, not {n_values!r}.")
        return await self._get(list, n_values, block, timeout, partition) if n_values else []

    @synchronized
    async def put(
        self,
        v: Any,
        block: bool = True,
        timeout: Optional[float] = None,
        *,
        partition: Optional[str] = None,
        partition_ttl: int = 24 * 3600,  # After 24 hours of no activity, this partition will be deletd.
    ) -> None:
        """Add an object to the end of the queue.

        If `block` is `True` and the queue is full, this method will retry indefinitely or
        until `timeout` if specified. Raises the stdlib's `queue.Full` exception if the `timeout` is reached.
        If blocking it is not recommended to omit the `timeout`, as the operation could wait indefinitely.

        If `block` is `False`, this method raises `queue.Full` immediately if the queue is full. The `timeout` is
        ignored in this case.
        """
        await self._put([_pickled(v)], block, timeout, partition, partition_ttl)

    @synchronized
    async def put_many(
        self,
        vs: list[Any],
        block: bool = True,
        timeout: Optional[float] = None,
        *,
        partition: Optional[str] = None,
        partition_ttl: int = 24 * 3600,  # After 24 hours of no activity, this partition will be deletd.
    ) -> None:
        """Add several objects to the end of the queue.

        If `block` is `True` and the queue is full, this method will retry indefinitely or
        until `timeout` if specified. Raises the stdlib's `queue.Full` exception if the `timeout` is reached.
        If blocking it is not recommended to omit the `timeout`, as the operation could wait indefinitely.

        If `block` is `False`, this method raises `queue.Full` immediately if the queue is full. The `timeout` is
        ignored in this case.

        Up to 1,000 objects and 4 MiB are put together or not at all; of more, the first ones may have been put
        when `queue.Full` is raised, which says how many.
        """
        given: Any = vs
        if not hasattr(given, "__iter__"):
            raise InvalidError(f"Queue.put_many takes a list of objects, not {type(given).__name__}: use put for one.")
        await self._put(_all_pickled(vs), block, timeout, partition, partition_ttl)

    @synchronized
    async def len(self, *, partition: Optional[str] = None, total: bool = False) -> int:
        """Return the number of objects in the queue partition, or with `total` in all partitions."""
        from modal._protocol.messages.object import ObjectCount, ObjectLen

        if partition is not None and total:
            raise InvalidError("Queue.len: give either a partition or total=True.")
        key = self.validate_partition_key(partition)
        client = await self._ready()
        return (await client.request(ObjectLen(self.object_id, key, total), ObjectCount)).count

    @synchronized_iterator("Queue.iterate does nothing until it is iterated: write `for item in queue.iterate():`")
    async def iterate(self, *, partition: Optional[str] = None, item_poll_timeout: float = 0.0) -> AsyncIterator[Any]:
        """(Beta feature) Iterate through items in the queue without mutation.

        Specify `item_poll_timeout` to control how long the iterator should wait for the next item before giving up.
        """
        if not _is_number(item_poll_timeout) or item_poll_timeout != item_poll_timeout:
            raise InvalidError(f"item_poll_timeout must be a number of seconds, not {item_poll_timeout!r}.")
        async for page in self._seen(partition, item_poll_timeout):
            what = self._what()
            for item in page:
                yield _serialization.load(item, what)

    @synchronized
    async def _readable_items(
        self, partition: Optional[str], otherwise: Callable[[DeserializationError], Any]
    ) -> AsyncIterator[Any]:
        """As `iterate`, with what `otherwise` makes of the error where an item cannot be loaded here."""
        async for page in self._seen(partition, 0.0):
            for item in page:
                try:
                    loaded = _serialization.load(item, "it")
                except DeserializationError as error:
                    loaded = otherwise(error)
                yield loaded

    # -- parts
    async def _seen(self, partition: Optional[str], timeout: float) -> AsyncIterator[List[bytes]]:
        """The items of a partition, page by page; they stay where they are."""
        key = self.validate_partition_key(partition)
        after = -1
        while True:
            page = await self._request_items(key, [], _PAGE, max(0.0, timeout), after)
            if not page.items:
                return
            yield page.items
            after = page.last

    def _loaded(self, items: List[bytes]) -> List[Any]:
        try:
            return _serialization.load_all(items)
        except DeserializationError:
            return _serialization.load_all(items, self._what())  # raises again, and says of which queue

    def _what(self) -> str:
        return f"an item of the Queue {self._name or self.object_id}"

    async def _get(
        self, of: Callable[[List[Any]], Any], count: int, block: bool, timeout: Optional[float],
        partition: Optional[str],
    ) -> Any:  # fmt: skip
        """What `of` makes of the items. Those that an interrupt keeps from being returned are given back."""
        key = b"" if partition is None else self.validate_partition_key(partition)
        tokens: List[bytes] = []
        try:
            answer = await self._request_items(key, tokens, min(count, MAX_ITEMS), _seconds(block, timeout))
            if not answer.items and block:
                raise Empty
            items = answer.items
            while answer.cut and len(items) < count:  # large ones: more of them than one answer carries
                answer = await self._request_items(key, tokens, min(count - len(items), MAX_ITEMS), 0.0)
                items = items + answer.items
            return of(self._loaded(items))
        except Exception:
            raise
        except BaseException:
            await self._give_back(tokens)
            raise

    async def _give_back(self, tokens: List[bytes]) -> None:
        """What came under these will not be taken."""
        client = await self._ready()
        for token in tokens:
            if token in client.receipts:
                client.receipts.remove(token)
        if tokens:
            await client.note(Received("queue", tokens, give_back=True))

    async def _request_items(
        self, key: bytes, tokens: List[bytes], count: int, wait: float, after: Optional[int] = None
    ) -> QueueItems:
        """Take items, or with `after` look at them. `tokens` gets the one under which they may have come."""
        client = await self._ready()
        token = new_token()
        deadline = time.monotonic() + wait if wait > 0 else 0.0
        peek = after is not None
        receipts = list(client.receipts)
        if not peek:
            tokens.append(token)

        def request(again: bool) -> QueueGet:
            left = max(0.0, deadline - time.monotonic()) if again and wait > 0 else wait
            place = -1 if after is None else after
            return QueueGet(self.object_id, key, token, count, left, again, peek, place, receipts)

        def receipt(answer: Optional[QueueItems]) -> Optional[Received]:
            if answer is None:
                tokens.remove(token)
                return Received("queue", [token], give_back=True)
            return Received("queue", [token]) if answer.items else None

        answer = await client.request(
            request(False),
            QueueItems,
            again=lambda: request(True),
            receipt=None if peek else receipt,
        )
        if answer.items and not peek:  # durable with what was lent, and so is what this request has confirmed
            for confirmed in receipts:
                if confirmed in client.receipts:
                    client.receipts.remove(confirmed)
            client.receipts.append(token)
        return answer

    async def _put(
        self, items: List[bytes], block: bool, timeout: Optional[float], partition: Optional[str], ttl: float
    ) -> None:
        key = b"" if partition is None else self.validate_partition_key(partition)
        if not _is_number(ttl) or not 0 < ttl <= MAX_TTL:
            raise InvalidError(f"partition_ttl must be above 0 and at most {MAX_TTL} seconds (24 hours), not {ttl!r}.")
        client = await self._ready()
        wait = _seconds(block, timeout)
        deadline = time.monotonic() + wait if wait > 0 else 0.0
        put = 0
        for batch in _batches(items):
            token = new_token()

            def request(again: bool, token: bytes = token, batch: List[bytes] = batch) -> QueuePut:
                left = max(0.0, deadline - time.monotonic()) if wait > 0 else wait
                return QueuePut(self.object_id, key, token, batch, ttl, left, again)

            answer = await client.request(request(False), StoredAnswer, again=partial(request, True))
            if not answer.stored:
                raise Full(f"{put} of {len(items)} items were put") if len(items) > 1 else Full
            put += len(batch)


def _first(values: List[Any]) -> Any:
    return values[0] if values else None


def _seconds(block: bool, timeout: Optional[float]) -> float:
    """How long the server shall wait."""
    if not block:
        return 0.0
    if timeout is None:
        return FOREVER
    if not _is_number(timeout) or not timeout >= 0:
        raise InvalidError(f"timeout must be a number of seconds, not negative, or None: not {timeout!r}.")
    return min(float(timeout), 1e9)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _pickled(value: Any) -> bytes:
    """Raises SerializationError, RequestSizeError."""
    data = _serialization.dumps_small(value)
    if data is None:
        data = _serialization.dumps(value, "the item for a Queue")
    if len(data) > MAX_ITEM:
        raise RequestSizeError(
            f"An item of a modal.Queue has at most 1 MiB ({MAX_ITEM:,} bytes), and this one has {len(data):,} when it "
            "is pickled: put it in a modal.Dict or a modal.Volume, and its key in the Queue."
        )
    return data


def _all_pickled(values: Iterable[Any]) -> List[bytes]:
    """As `_pickled` of each."""
    values = list(values)
    found = [*map(_serialization.dumps_small, values)]
    if None in found:
        return [_pickled(value) if data is None else data for value, data in zip(values, found)]
    return cast("List[bytes]", found)


def _batches(items: List[bytes]) -> Iterable[List[bytes]]:
    """As they are put together."""
    if 0 < len(items) <= _BATCH and sum(map(len, items)) <= MAX_BODY:
        return (items,)
    return _cut(items)


def _cut(items: List[bytes]) -> Iterator[List[bytes]]:
    batch: List[bytes] = []
    size = 0
    for item in items:
        if batch and (len(batch) >= _BATCH or size + len(item) > MAX_BODY):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item)
    if batch:
        yield batch
