"""What dicts and queues have in common: opened by name, ephemeral ones kept alive, deleted by name."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, AsyncIterator, Callable, Iterator, Optional

from modal._named import _Named
from modal._object import check_object_name, environment_of
from modal._sync import blocking

if TYPE_CHECKING:
    from typing_extensions import Self

    from modal._client import Client


class Stored(_Named):
    """`_kind` is what the server calls it."""

    _made_by = "from_name(name, create_if_missing=True), or ephemeral() for a time"

    async def _load(self, client: Client) -> None:
        from modal._protocol.messages.object import ObjectOpen
        from modal._protocol.messages.secret import ObjectId

        request = ObjectOpen(self._kind, self._name, environment_of(self._environment), self._create)
        self._object_id = (await client.request(request, ObjectId)).object_id

    @classmethod
    async def _ephemeral(
        cls, client: Optional[Client], environment_name: Optional[str], heartbeat_sleep: float
    ) -> AsyncIterator[Self]:
        """A new one for the time of a `with` block."""
        from modal._client import Client
        from modal._protocol.messages.object import ObjectOpen
        from modal._protocol.messages.secret import ObjectId

        client = client or Client.current()
        answer = await client.request(ObjectOpen(cls._kind, "", environment_of(environment_name)), ObjectId)
        made = cls._from_object_id(answer.object_id)
        made._client = client
        stop = _keep_alive(client, answer.object_id, heartbeat_sleep)
        try:
            yield made
        finally:
            stop()
            await _delete_quietly(client, cls._kind, answer.object_id)

    @classmethod
    async def _delete(cls, name: str, client: Optional[Client], environment_name: Optional[str]) -> None:
        from modal._client import Client
        from modal._protocol.messages.object import ObjectDelete
        from modal._protocol.messages.wire import Done

        request = ObjectDelete(
            cls._kind, name=check_object_name(name, cls.__name__), environment=environment_of(environment_name)
        )
        await (client or Client.current()).request(request, Done)


_prefix = b""
_numbers: Iterator[int] = iter(())


def new_token() -> bytes:
    """By which the server recognises a request that is sent again: what this process alone has, and a number."""
    return _prefix + next(_numbers).to_bytes(8, "big")


def _begin_tokens() -> None:
    global _prefix, _numbers
    _prefix, _numbers = os.urandom(8), itertools.count()


_begin_tokens()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_tokens)


async def _delete_quietly(client: Client, kind: str, object_id: str) -> None:
    from modal._protocol.messages.object import ObjectDelete
    from modal._protocol.messages.wire import Done
    from modal.exception import Error

    try:
        await client.request(ObjectDelete(kind, object_id), Done, patience=5.0)
    except Error:  # it is gone already, or the server collects it when nobody speaks of it any more
        return


def _keep_alive(client: Client, object_id: str, seconds: float) -> Callable[[], object]:
    """Tell the server every so often that the object is used; what to call when it is not any more."""
    from modal._protocol.messages.object import ObjectHeartbeat
    from modal._protocol.messages.wire import Done
    from modal.exception import Error

    if not blocking():
        import asyncio

        async def beat() -> None:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await client.request(ObjectHeartbeat(object_id), Done)
                except Error:
                    continue

        return asyncio.ensure_future(beat()).cancel

    import threading

    from modal._sync import run

    over = threading.Event()

    def beat_in_thread() -> None:
        while not over.wait(seconds):
            try:
                run(client.request(ObjectHeartbeat(object_id), Done))
            except Error:
                continue

    threading.Thread(target=beat_in_thread, name="modal-heartbeat", daemon=True).start()
    return over.set
