"""Exchanges that carry much up to the server and end with one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Awaitable, BinaryIO, Callable, Optional, Sequence, Type, TypeVar, Union

from modal._endpoint import PATIENCE, Patience, error_of
from modal._protocol.errors import Fault, ProtocolError, WireError
from modal._protocol.messages.call import BlobChunk
from modal._sync import call_blocking

if TYPE_CHECKING:
    from modal._client import Client
    from modal._exchange import Exchange
    from modal._protocol.message import Message

    M = TypeVar("M", bound=Message)
else:
    M = TypeVar("M")

CHUNK = 1 << 20  # bytes that travel in one frame

Told = Callable[[int], None]  # bytes
Content = Union[str, Sequence[Union[bytes, memoryview]]]  # path of a file, or the bytes in parts


async def upload(
    client: Client,
    message: Message,
    content: Content,
    expect: Type[M],
    *,
    patience: float = PATIENCE,
    told: Optional[Told] = None,
) -> M:
    """Open an exchange with `message`, send the content in chunks; the answer. See `deliver`.

    `told` is told how many bytes of a file have been sent.
    """

    async def send(exchange: Exchange) -> None:
        if isinstance(content, str):
            with open(content, "rb") as file:
                await send_file(exchange, file, told)
            return
        for part in content:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), CHUNK):
                await exchange.send(BlobChunk(bytes(view[start : start + CHUNK])))

    return await deliver(client, message, send, expect, patience=patience)


async def send_file(exchange: Exchange, file: BinaryIO, told: Optional[Told] = None) -> None:
    """From where the file stands to its end, in chunks."""
    while True:
        data = await call_blocking(file.read, CHUNK)
        if not data:
            return
        await exchange.send(BlobChunk(data))
        if told is not None:
            told(file.tell())


async def deliver(
    client: Client,
    message: Message,
    send: Callable[[Exchange], Awaitable[None]],
    expect: Type[M],
    *,
    patience: float = PATIENCE,
    again: Optional[Callable[[], Awaitable[Message]]] = None,
) -> M:
    """Open an exchange with `message`, `send` what belongs into it; the answer. Raises modal.exception's errors.

    All of it is done again where the server was lost; `patience` is how many seconds it may be away, `again` makes the
    message that is sent then.
    """
    waiting: Optional[Patience] = None
    while True:
        exchange = await client.open(message, patience=patience, waiting=waiting)
        clean = False
        try:
            await send(exchange)
            exchange.end()
            while await exchange.receive() is not None:
                continue
            clean = True
            answer = exchange.response
            if not isinstance(answer, expect):
                raise error_of("internal", f"{type(message).__name__} was answered with {type(answer).__name__}")
            return answer
        except Fault as fault:
            clean = True
            raise error_of(fault.code, fault.text) from None
        except ProtocolError as error:
            raise error_of("internal", f"{type(message).__name__}: {error}") from None
        except WireError as error:
            waiting = waiting or Patience(client._endpoint, patience)
            await client._wait(waiting, error)
        finally:
            exchange.close(reuse=clean)
        if again is not None:
            message = await again()
