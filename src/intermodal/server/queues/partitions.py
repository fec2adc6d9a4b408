"""The partitions that are in memory: loaded when they are asked for, forgotten when nobody has needed them for long."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from intermodal.server.queues.changes import Changes
from intermodal.server.queues.partition import Partition
from intermodal.server.store import queues as sql
from intermodal.server.store.queues import PartitionRow, QueueStore
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.queue import MAX_PARTITIONS

MAX_LOADED = 20_000  # partitions in memory that nobody needs just now
MAX_QUEUES = 10_000


class Queue:
    """One queue in memory."""

    __slots__ = ("count", "loaded", "loading", "number", "object_id")

    def __init__(self, object_id: str, number: int, count: int) -> None:
        self.object_id = object_id
        self.number = number
        self.count = count  # partitions in the store
        self.loaded: dict[bytes, Partition] = {}  # those in memory
        self.loading = 0  # that are on their way there


class Partitions:
    """`adopt` is told of what was lent before the server began."""

    def __init__(
        self,
        store: QueueStore,
        changes: Changes,
        find: Callable[[str], Awaitable[int]],
        adopt: Callable[[Partition, PartitionRow], None],
        next_number: int,
    ) -> None:
        self._store = store
        self._changes = changes
        self._find = find
        self._adopt = adopt
        self._queues: dict[str, Queue] = {}
        self._loaded: OrderedDict[tuple[str, bytes], Partition] = OrderedDict()  # the latest used one last
        self._next_number = next_number

    @classmethod
    async def open(
        cls,
        store: QueueStore,
        changes: Changes,
        find: Callable[[str], Awaitable[int]],
        adopt: Callable[[Partition, PartitionRow], None],
    ) -> Partitions:
        return cls(store, changes, find, adopt, await store.last_partition() + 1)

    def get(self, object_id: str, key: bytes) -> Partition | None:
        """If it is in memory."""
        name = (object_id, key)
        found = self._loaded.get(name)
        if found is not None:
            self._loaded.move_to_end(name)
        return found

    def all(self) -> list[Partition]:
        """Those in memory."""
        return list(self._loaded.values())

    async def load(self, object_id: str, key: bytes) -> Partition:
        """Fault: not-found."""
        found = self.get(object_id, key)
        if found is not None:
            return found
        queue = await self.queue(object_id)
        # By way of the writer: so it sees all that was decided before. The journal alone knows nothing of it: what is
        # not in memory is settled.
        queue.loading += 1
        try:
            row = await self._changes.run(partial(sql.read_partition, queue=queue.number, key=key))
        finally:
            queue.loading -= 1
        if self._queues.get(object_id) is not queue:
            raise Fault(Code.NOT_FOUND, f"Queue {object_id} was deleted")
        found = self.get(object_id, key)  # somebody else was quicker
        return found if found is not None else self._keep(queue, key, row)

    async def queue(self, object_id: str) -> Queue:
        """Fault: not-found."""
        queue = self._queues.get(object_id)
        if queue is None:
            number = await self._find(object_id)
            count = await self._store.count_partitions(number)
            if len(self._queues) >= MAX_QUEUES:
                self._forget_unused_queues()
            queue = self._queues.setdefault(object_id, Queue(object_id, number, count))
        return queue

    def forget(self, object_id: str) -> list[Partition]:
        """The queue was deleted; the partitions that it had in memory."""
        queue = self._queues.pop(object_id, None)
        return [self._loaded.pop((object_id, key)) for key in queue.loaded] if queue is not None else []

    async def make_room(self, queue: Queue) -> None:
        """For a new partition. Fault: exhausted."""
        if queue.count < MAX_PARTITIONS:
            return
        loaded = [partition.number for partition in queue.loaded.values()]
        queue.count -= await self._changes.run(partial(sql.drop_empty, queue=queue.number, loaded=loaded))
        if queue.count >= MAX_PARTITIONS:
            raise Fault(
                Code.EXHAUSTED,
                f"this Queue has {MAX_PARTITIONS} partitions, and no more are allowed: clear some of them",
            )

    async def count(self) -> None:
        """Look again how many partitions each queue has."""
        await self._changes.settle_all()
        for queue in list(self._queues.values()):
            queue.count = await self._store.count_partitions(queue.number)

    def _keep(self, queue: Queue, key: bytes, row: PartitionRow | None) -> Partition:
        if row is None:
            partition = Partition(queue, key, self._next_number)
            self._next_number += 1
        else:
            partition = Partition(queue, key, row.number, stored=True)
            lent = {
                place for ranges in row.taken.values() for first, last in ranges for place in range(first, last + 1)
            }
            partition.begin_at(row.places[-1] + 1 if row.places else 0)
            partition.give_back([(place, place) for place in row.places if place not in lent])
            partition.expires_at = partition.kept_until = row.expires_at
            self._adopt(partition, row)
        self._loaded[queue.object_id, key] = queue.loaded[key] = partition
        if len(self._loaded) > MAX_LOADED:
            self._unload()
        return partition

    def _unload(self) -> None:
        """Forget those that were not used for the longest time and that nobody needs now."""
        for name in list(self._loaded)[: MAX_LOADED // 10]:
            partition = self._loaded[name]
            if partition.idle:
                del self._loaded[name], partition.queue.loaded[partition.key]

    def _forget_unused_queues(self) -> None:
        self._queues = {object_id: queue for object_id, queue in self._queues.items() if queue.loaded or queue.loading}
