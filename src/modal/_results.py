"""Arguments in, outcomes out: between values and the columns of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Sequence

from modal import _context, _serialization
from modal._call_stream import Packed
from modal._protocol.messages.call import Outputs, Status, unpack_failure

if TYPE_CHECKING:
    from modal._client import Client


async def pack(client: Client, args: Sequence[Any], kwargs: Dict[str, Any], audience: str = "") -> Packed:
    """Pickle arguments; large ones into the values directory, or uploaded. Raises SerializationError.

    `audience`: the app that will read them while this process waits; "" for a spawned call.
    """
    dumped = _serialization.dump_args(
        args, kwargs, await client.values_dir(), audience=audience, owned=bool(audience) and _context.is_local()
    )
    if dumped.parts is None and not dumped.blob:
        return Packed(dumped.inline, "", dumped.size)
    inline, blob = await client.put_value(dumped)
    return Packed(inline, blob, dumped.size)


async def shown(client: Client, app_id: str, log_seq: int) -> None:
    """Return when what the app printed before these outputs is on the screen (if somebody shows it here)."""
    attachment = client.attachments.get(app_id)
    if attachment is not None and attachment.seq < log_seq:
        await attachment.drain(log_seq)


async def outcome(client: Client, outputs: Outputs, number: int, name: str) -> Any:
    """The value of an output. Raises what the input raised, or why it has no result."""
    status = outputs.statuses[number]
    if status in (Status.SUCCESS, Status.YIELDED):
        blob = outputs.blobs[number] if outputs.blobs else ""
        if not blob:
            return _serialization.load(outputs.values[number], f"the result of {name}")
        return await client.get_value(outputs.values[number], blob, f"the result of {name}")
    raise failure(status, outputs.values[number])


def failure(status: int, value: bytes) -> Exception:
    """The exception for an output that is no result."""
    return _serialization.exception_of(unpack_failure(value), timed_out=status == Status.TIMEOUT)
