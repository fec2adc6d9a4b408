"""The stream of one call: inputs up, outputs down, and both once more after a lost connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Awaitable, Callable, Dict, Iterable, List, NamedTuple, Optional

from modal._endpoint import CALL_PATIENCE, error_of
from modal._protocol.errors import ConnectionLost, Fault, ProtocolError, Unreachable, WireError
from modal._protocol.messages.call import (
    BATCH_BYTES,
    BATCH_INPUTS,
    CallOpen,
    Inputs,
    Outputs,
    OutputsTaken,
    Status,
    new_call_id,
)

if TYPE_CHECKING:
    from modal._client import Client
    from modal._endpoint import Patience
    from modal._exchange import Exchange

TELL_COUNT = 256  # outputs after which the server is told that they have arrived
TELL_BYTES = 1 << 18  # the same in bytes
LARGE_COST = 1 << 18  # bytes that an output in the value store counts for, as on the server


class Target(NamedTuple):
    """What is called: a function, or a method of a class."""

    function_id: str
    app_id: str = ""  # whose logs are shown before a result is returned
    method: str = ""
    name: str = "the function"  # as error messages call it
    # Of what was found by its name: looks that up again, for what the server has refused. None where it is the same.
    renew: Optional[Callable[[Client, Target], Awaitable[Optional[Target]]]] = None

    async def renewed(self, client: Client, error: Exception) -> Target:
        """What to call instead after this error: another deployment has the name now. Raises `error` where there is
        none, or what the look-up says."""
        found = None
        if self.renew is not None and type(error).__name__ == "NotFoundError":
            try:
                found = await self.renew(client, self)
            except Exception as unknown:
                raise unknown from None
        if found is None:
            raise error
        return found


class Packed(NamedTuple):
    """The arguments of one input, as messages carry them."""

    inline: bytes
    blob: str
    size: int  # bytes, wherever they are


def parent_input_id() -> str:
    """The input that calls, "" outside of a container."""
    from modal import _context

    return _context.current_input_id() or ""


class CallStream:
    """Opened with the first inputs. Keeps every input that has no final output, to send it again when it must.

    Errors are modal.exception's.
    """

    def __init__(self, client: Client, target: Target, kind: str, wake: Callable[[], None] = lambda: None) -> None:
        self.unanswered: Dict[int, Packed] = {}
        self._client = client
        self._target = target
        self._kind = kind
        self._wake = wake
        self._call_id = new_call_id()
        self._parent = parent_input_id()
        self._exchange: Optional[Exchange] = None
        self._patience: Optional[Patience] = None  # of the outage that we are in
        self._ended = False  # all inputs are sent
        self._yields_seen = 0
        self._begun = False  # outputs have come
        self._taken = 0  # outputs that have come on this exchange
        self._told = 0  # of which the server knows that
        self._untold_bytes = 0
        self._clean = True  # the connection is not in the middle of a frame

    async def send(self, inputs: Dict[int, Packed]) -> None:
        """Send inputs, at most `BATCH_INPUTS`."""
        self.unanswered.update(inputs)
        if self._exchange is None:
            await self._open(resume=False)
        try:
            await self._send(inputs)
        except WireError as error:
            await self._resume(error)

    async def end(self) -> None:
        """There are no more inputs."""
        self._ended = True
        if self._exchange is not None:
            try:
                self._exchange.end()
            except WireError as error:
                await self._resume(error)

    async def receive(self) -> Optional[Outputs]:
        """The next outputs, without those that were there before a reconnect; None when the call is over."""
        while True:
            assert self._exchange is not None
            try:
                self._clean = False
                message = await self._exchange.receive()
                self._clean = True
            except Fault as fault:
                self._clean = True
                await self._begin_anew(error_of(fault.code, fault.text))
                continue
            except WireError as error:
                await self._resume(error)
                continue
            self._patience = None
            if message is None:
                if not self.unanswered:
                    return None
                raise error_of("internal", f"{self._call_id} ended, but {len(self.unanswered)} inputs have no result")
            if isinstance(message, Outputs):
                self._begun = True
                self._count(message)
                self._settle(message)
                return message

    def ready(self) -> bool:
        """Whether `receive` would return at once."""
        return self._exchange is not None and self._exchange.ready()

    async def finish(self) -> None:
        """All outputs are there: let the stream end, so that its connection can be used again."""
        if self._exchange is not None and self._ended:
            try:
                while await self._exchange.receive() is not None:
                    continue
                self._tell()
            except (Fault, WireError):
                self._clean = False  # the results are here; this connection is of no more use

    def close(self) -> None:
        """Cancels what has no output yet."""
        if self._exchange is not None:
            self._exchange.close(reuse=self._clean)
            self._exchange = None

    def _count(self, message: Outputs) -> None:
        """Tell the server now and then how far we are: it keeps what may be lost, and does not run far ahead."""
        self._taken += len(message.indexes)
        self._untold_bytes += sum(map(len, message.values))
        if message.blobs:
            self._untold_bytes += LARGE_COST * sum(map(bool, message.blobs))
        if self._taken - self._told >= TELL_COUNT or self._untold_bytes >= TELL_BYTES:
            self._tell()

    def _tell(self) -> None:
        if self._exchange is None or self._told == self._taken:
            return
        self._told, self._untold_bytes = self._taken, 0
        try:
            self._exchange.note(OutputsTaken([self._call_id], [self._taken]))
        except WireError:
            return  # `receive` notices it too

    def _settle(self, message: Outputs) -> None:
        known = []
        item = message.number
        for number, (index, status) in enumerate(zip(message.indexes, message.statuses)):
            if index not in self.unanswered:
                known.append(number)  # its output came before the connection was lost
            elif status == Status.YIELDED:
                if item >= 0:
                    item += 1
                    if item <= self._yields_seen:
                        known.append(number)
                        continue
                    if item > self._yields_seen + 1:
                        lost = f"items {self._yields_seen} to {item - 2}"
                        raise error_of("internal", f"{lost} of {self._target.name} were lost: call it again")
                self._yields_seen += 1
            else:
                del self.unanswered[index]
        for number in reversed(known):
            for column in (message.indexes, message.statuses, message.values, message.blobs):
                del column[number : number + 1]

    async def _open(self, *, resume: bool) -> None:
        try:
            self._use(await self._client.open(self._message(resume), patience=CALL_PATIENCE))
        except Fault as fault:
            raise error_of(fault.code, fault.text) from None

    async def _begin_anew(self, error: Exception) -> None:
        """The server has refused the call. Where nothing has come of it, another deployment may have its name now."""
        if self._begun:
            raise error
        self._target = await self._target.renewed(self._client, error)
        self._call_id = new_call_id()
        self.close()
        await self._open(resume=False)
        try:
            await self._send_unanswered()
        except WireError as lost:
            await self._resume(lost)

    async def _send_unanswered(self) -> None:
        for batch in _batches(self.unanswered):
            await self._send(batch)
        if self._ended:
            assert self._exchange is not None
            self._exchange.end()

    def _message(self, resume: bool) -> CallOpen:
        return CallOpen(self._call_id, self._target.function_id, self._kind, self._parent, resume, self._yields_seen)

    def _use(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._taken = self._told = self._untold_bytes = 0
        exchange.take_all(self._wake)

    async def _resume(self, error: WireError) -> None:
        """Open the call again on another connection, and send again what is unanswered."""
        while True:
            if isinstance(error, ProtocolError):
                raise error_of("internal", f"the call cannot go on: {error}") from None
            if self._exchange is not None:
                self._exchange.close(reuse=False)
                self._exchange = None
            exchange, self._patience = await self._client.reopen(self._message(True), error, self._patience)
            self._use(exchange)
            try:
                await self._send_unanswered()
                return
            except (ConnectionLost, Unreachable) as again:
                error = again

    async def _send(self, inputs: Dict[int, Packed]) -> None:
        assert self._exchange is not None
        blobs = [packed.blob for packed in inputs.values()]
        method = self._target.method
        message = Inputs(
            list(inputs),
            [packed.inline for packed in inputs.values()],
            blobs if any(blobs) else [],
            [method] * len(inputs) if method else [],
        )
        self._clean = False
        await self._exchange.send_now(message)
        self._clean = True


def _batches(inputs: Dict[int, Packed]) -> Iterable[Dict[int, Packed]]:
    """Inputs in messages of bounded size."""
    batch: Dict[int, Packed] = {}
    size = 0
    for index, packed in list(inputs.items()):
        if batch and (len(batch) >= BATCH_INPUTS or size + len(packed.inline) > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[index] = packed
        size += len(packed.inline)
    if batch:
        yield batch


__all__: List[str] = ["CallStream", "Packed", "Target", "parent_input_id"]
