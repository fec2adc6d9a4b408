"""Calls as the SDK makes them: one input, a generator, spawned ones, and what comes of them. Maps: `modal._map`.

Everything here is an implementation for both faces (see `modal._sync`): a coroutine, or an async generator,
that a `@synchronized` method awaits or iterates.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, AsyncIterator, Deque, Dict, List, Optional, Sequence, Tuple

from modal._call_stream import CallStream, Packed, Target, parent_input_id
from modal._endpoint import CALL_PATIENCE, error_of
from modal._map import Source, for_each, map_, sources, star_source
from modal._protocol.errors import Fault, WireError
from modal._protocol.messages.call import (
    BATCH_BYTES,
    CallAwait,
    CallCancel,
    CallGraph,
    CallGraphGet,
    Invoke,
    Outputs,
    Spawn,
    Status,
    new_call_id,
)
from modal._protocol.messages.wire import Done
from modal._results import outcome, pack, shown

if TYPE_CHECKING:
    from modal._client import Client
    from modal._exchange import Exchange
    from modal._protocol.messages.call import CallGraphNode

SPAWNS_AHEAD = 4  # Spawn messages that wait for their acknowledgement at the same time
SPAWN_INPUTS = 512  # inputs a Spawn message: each waits for the disk
AWAIT_SECONDS = 50.0  # that one CallAwait with a time limit lasts at most


async def invoke(client: Client, target: Target, args: Sequence[Any], kwargs: Dict[str, Any]) -> Any:
    """`.remote`: one input; its result, or the exception that it raised."""
    packed = await pack(client, args, kwargs, target.app_id)
    call_id = new_call_id()
    message = Invoke(
        call_id,
        target.function_id,
        packed.inline,
        packed.blob,
        target.method,
        parent_input_id(),
        client.taken.told(),
    )
    try:
        outputs = await client.request(message, Outputs, patience=CALL_PATIENCE)
    except Exception as error:
        target = await target.renewed(client, error)
        message.function_id = target.function_id
        outputs = await client.request(message, Outputs, patience=CALL_PATIENCE)
    await client.taken.add(call_id)
    await shown(client, target.app_id, outputs.log_seq)
    return await outcome(client, outputs, 0, target.name)


async def invoke_gen(client: Client, target: Target, args: Sequence[Any], kwargs: Dict[str, Any]) -> AsyncIterator[Any]:
    """`.remote_gen`: the items of a generator function as they are produced. Closing it early cancels the input."""
    call = CallStream(client, target, "generator")
    try:
        await call.send({0: await pack(client, args, kwargs, target.app_id)})
        await call.end()
        while True:
            outputs = await call.receive()
            if outputs is None:
                return
            await shown(client, target.app_id, outputs.log_seq)
            for number, status in enumerate(outputs.statuses):
                if status == Status.EXHAUSTED:
                    await call.finish()
                    return
                value = await outcome(client, outputs, number, target.name)
                yield value
                if status != Status.YIELDED:  # a plain function's one result
                    await call.finish()
                    return
    finally:
        call.close()


# -- spawned calls --------------------------------------------------------------------------------


async def spawn(client: Client, target: Target, args: Sequence[Any], kwargs: Dict[str, Any]) -> str:
    """`.spawn`: the id of a call whose input is on the server's disk."""
    packed = await pack(client, args, kwargs)
    call_id = new_call_id()
    await _begin(client, target, _spawn_message(call_id, target, {0: packed}, last=True))
    return call_id


async def _begin(client: Client, target: Target, message: Spawn) -> Target:
    """Send the first message of a spawned call, to whatever has the target's name now. Returns that."""
    try:
        await client.request(message, Done, patience=CALL_PATIENCE)
    except Exception as error:
        target = await target.renewed(client, error)
        message.function_id = target.function_id
        await client.request(message, Done, patience=CALL_PATIENCE)
    return target


async def spawn_map(client: Client, target: Target, source: Source) -> str:
    """`.spawn_map`: the id of a call with all inputs of the source; "" where it has none."""
    call_id = new_call_id()
    batch: Dict[int, Packed] = {}
    size = count = 0
    begun = target.renew is None  # else nothing follows the first message until it is clear what is called
    waiting: Deque[Tuple[Spawn, Exchange]] = deque()
    try:
        async for args, kwargs in source.items():
            packed = await pack(client, args, kwargs)
            if batch and (len(batch) >= SPAWN_INPUTS or size + len(packed.inline) > BATCH_BYTES):
                message = _spawn_message(call_id, target, batch, last=False)
                if begun:
                    waiting.append((message, await client.open(message, patience=CALL_PATIENCE)))
                else:
                    target, begun = await _begin(client, target, message), True
                batch, size = {}, 0
                if len(waiting) >= SPAWNS_AHEAD:
                    await _acknowledged(client, *waiting.popleft())
            batch[count] = packed
            size += len(packed.inline)
            count += 1
        while waiting:
            await _acknowledged(client, *waiting.popleft())
    finally:
        for _message, exchange in waiting:
            exchange.close(reuse=False)
    if not count:
        return ""
    message = _spawn_message(call_id, target, batch, last=True)
    if begun:
        await client.request(message, Done, patience=CALL_PATIENCE)
    else:
        await _begin(client, target, message)
    return call_id


async def _acknowledged(client: Client, message: Spawn, exchange: Exchange) -> None:
    """Wait until a Spawn is on disk; ask again where its connection was lost."""
    clean = False
    try:
        while await exchange.receive() is not None:
            continue
        clean = True
        return
    except Fault as fault:
        clean = True
        raise error_of(fault.code, fault.text) from None
    except WireError:
        pass  # it is sent again below; the server knows the call's id and the inputs' indexes
    finally:
        exchange.close(reuse=clean)
    await client.request(message, Done, patience=CALL_PATIENCE)


def _spawn_message(call_id: str, target: Target, inputs: Dict[int, Packed], *, last: bool) -> Spawn:
    blobs = [packed.blob for packed in inputs.values()]
    return Spawn(
        call_id,
        target.function_id,
        list(inputs),
        [packed.inline for packed in inputs.values()],
        blobs if any(blobs) else [],
        [target.method] * len(inputs) if target.method else [],
        parent_input_id(),
        last,
    )


async def call_result(
    client: Client, call_id: str, index: int = 0, timeout: Optional[float] = None, app_id: str = ""
) -> Any:
    """`FunctionCall.get`: waits at most `timeout` seconds (None: for ever, 0: does not wait).

    Raises what the input raised, TimeoutError (a builtin one too) while there is no result, OutputExpiredError.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        wait = -1.0 if left is None else min(left, AWAIT_SECONDS)
        patience = CALL_PATIENCE if left is None else min(CALL_PATIENCE, left + 5.0)
        try:
            outputs = await client.request(
                CallAwait(call_id, index, wait, parent_input_id()), Outputs, patience=patience
            )
        except TimeoutError as error:
            if error.__class__.__name__ != "TimeoutError":
                raise  # OutputExpiredError is one too
            if left is None or left > wait:
                continue
            raise error_of("timeout", f"{call_id} has no result yet (waited {timeout:g} s).") from error
        await shown(client, app_id, outputs.log_seq)
        return await outcome(client, outputs, 0, call_id)


async def call_cancel(client: Client, call_id: str, terminate_containers: bool = False) -> None:
    """`FunctionCall.cancel`."""
    await client.request(CallCancel(call_id, terminate_containers), Done)


async def call_graph(client: Client, call_id: str) -> List[CallGraphNode]:
    """All inputs below the root of the call."""
    return (await client.request(CallGraphGet(call_id), CallGraph)).nodes


__all__ = [
    "Source",
    "Target",
    "call_cancel",
    "call_graph",
    "call_result",
    "for_each",
    "invoke",
    "invoke_gen",
    "map_",
    "sources",
    "spawn",
    "spawn_map",
    "star_source",
]
