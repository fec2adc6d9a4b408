"""How frames leave a connection: those of one turn of the loop together, large bodies without being copied."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, Optional

from modal._protocol.frames import MAX_HEADER, PREFIX, pack_head

JOIN_LIMIT = 1 << 16  # bytes: a larger body is not copied together with its head

_pack_prefix = PREFIX.pack
_together: dict[asyncio.AbstractEventLoop, list[FrameSender]] = {}  # who has written something during `together`


class FrameSender(asyncio.Protocol):
    """Base of protocols that send frames. They set `_corked` while they take what has come, and `flush` after it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closed = False  # nothing can be sent any more
        self._transport: Optional[asyncio.Transport] = None
        self._out: list[bytes] = []
        self._corked = False  # a flush will follow anyway

    def write(self, data: bytes) -> None:
        """Send bytes of whole frames. What is written during one turn of the loop leaves in one go."""
        if self.closed:
            return
        self._out.append(data)
        if not self._corked:
            self._corked = True
            senders = _together.get(self.loop)
            if senders is None:
                self.loop.call_soon(self._uncork)
            else:
                senders.append(self)

    def send_frame(self, kind: int, type: int, stream: int, header: bytes, body: bytes) -> None:
        """Send one frame. Raises ProtocolError where it is too large."""
        if self.closed:
            return
        size = len(body)
        if size > JOIN_LIMIT or len(header) > MAX_HEADER:
            self._out.append(pack_head(kind, type, stream, header, size))
            self._out.append(body)
        else:
            self._out.append(_pack_prefix(kind, 0, type, stream, len(header), size) + header + body)
        if not self._corked:
            self._corked = True
            senders = _together.get(self.loop)
            if senders is None:
                self.loop.call_soon(self._uncork)
            else:
                senders.append(self)

    def _uncork(self) -> None:
        self._corked = False
        self.flush()

    def flush(self) -> None:
        """Hand over at once what has been written."""
        out = self._out
        if not out or self._transport is None:
            return
        self._out = []
        if len(out) == 1:
            self._transport.write(out[0])
        elif max(map(len, out)) > JOIN_LIMIT:
            for part in out:
                self._transport.write(part)
        else:
            self._transport.write(b"".join(out))


def together(loop: asyncio.AbstractEventLoop, work: Callable[..., None], *args: Any) -> None:
    """Call `work` on its loop: what it writes to any connections leaves at its end, not in the loop's next turn."""
    if loop in _together:
        work(*args)
        return
    senders = _together[loop] = []
    try:
        work(*args)
    finally:
        del _together[loop]
        for sender in senders:
            sender._uncork()
