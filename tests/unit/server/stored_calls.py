"""Inputs and outputs of spawned calls, put into the store by tests that wait for it."""

from __future__ import annotations

import asyncio
from typing import Any

from intermodal.server.store.calls import Added, CallStore, Finished, NewCall, NewInput


async def add(calls: CallStore, call: NewCall, inputs: list[NewInput], last: bool = True) -> Added:
    """Durable when this returns."""
    added = asyncio.get_running_loop().create_future()
    calls.add_spawned_soon(call, inputs, last, lambda result, error: settle(added, result, error))
    result: Added = await added
    return result


async def finish(calls: CallStore, outputs: list[Finished]) -> None:
    """Durable when this returns."""
    done = asyncio.get_running_loop().create_future()
    calls.finish(outputs, lambda error: settle(done, None, error))
    await done


def settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
