"""The asyncio side of a connection up to its frames: bytes in, bytes out, closing, keeping alive, HTTP upgrade."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Callable, Optional, cast

from modal._protocol import tcp, upgrade
from modal._protocol.address import Address
from modal._protocol.errors import ConnectionLost, ProtocolError, Unreachable
from modal._protocol.frames import PREFIX, Frame, FrameBuffer, Kind
from modal._protocol.sending import FrameSender

MAX_UNREAD = 512 << 20  # bytes that may wait for a peer that sends on but does not read
MAX_ANSWERS = 1000  # of the wire itself, to a peer that asks on but does not read
HIGH_WATER = 1 << 20  # bytes in the transport above which `paused` is set
GREETING_SECONDS = 10.0
LINGER_SECONDS = 5.0  # how long a closing connection may take to send what it has
KEEPALIVE_SECONDS = 20.0  # of silence after which a peer on TCP is pinged, and again for its answer

PING = PREFIX.pack(Kind.PING, 0, 0, 0, 0, 0)
HttpFactory = Callable[[], asyncio.Protocol]


class FrameTransport(FrameSender):
    """Gives every frame to `_take`; `settle` is called once, when nothing more will come."""

    _take: Callable[[Frame], None]  # set by the subclass; what it raises ends the connection

    def __init__(self, *, accepting: bool, http: Optional[HttpFactory] = None) -> None:
        super().__init__()
        self.accepting = accepting
        self.paused = False  # the transport has more than it should: wait with `drain`
        self.read_to_end = False  # the peer, on a unix socket, ended the connection and had read all that was sent
        self.on_close: list[Callable[[Optional[Exception]], None]] = []
        self._http = http
        self._buffer = FrameBuffer(greeting=accepting)
        self._opening: Optional[Callable[[bytes], bytes]] = None  # HTTP: takes bytes until frames begin
        self._head = b""
        self._drainers: list[asyncio.Future[None]] = []
        self._unread = 0  # answers of the wire itself since the peer last read
        self._error: Optional[Exception] = None
        self._lost = False
        self._settled = False
        self._timer: Optional[asyncio.TimerHandle] = None
        self._heard = False  # since the last look of the keepalive
        self._asked = False  # the keepalive waits for any sign of life

    # -- for the subclass
    def settle(self, error: Exception) -> None:
        """Nothing more will come."""
        raise NotImplementedError

    def farewell(self, error: Exception) -> None:
        """The connection is about to be ended because of `error`: the peer may be told."""
        raise NotImplementedError

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            tcp.tune_descriptor(sock.fileno())
            if self.accepting:
                self._opening = self._accept_upgrade
        if self.accepting:
            self._timer = self.loop.call_later(GREETING_SECONDS, self._greeting_late)

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard = True
        self._corked = True
        try:
            if self._opening is not None:
                data = self._opening(data)
            for frame in self._buffer.feed(data):
                self._take(frame)
                if self.closed:
                    return  # type: ignore[unreachable]  # the frame may have ended it
            if self.paused:
                self._check_unread()
        except ProtocolError as error:
            self.break_off(error)
        except Exception as error:  # a defect of ours: it must not leave the connection half alive
            self.report("receiving failed", error)
            self.break_off(ProtocolError(f"receiving failed: {type(error).__name__}: {error}"))
        finally:
            self._corked = False
            if self._out:
                self.flush()

    def eof_received(self) -> bool:
        self.read_to_end = not self.unsent  # where it has not read what its kernel has, a reset comes and no end
        self.closed = True  # the transport is about to be: what would be written now arrives nowhere
        return False

    def connection_lost(self, exc: Optional[Exception]) -> None:
        if self._lost:
            return
        self._lost = self.closed = True
        self._stop_timer()
        error = self._error or ConnectionLost(f"the connection was lost{f': {exc}' if exc else ''}")
        self._settle_once(error)
        self.resume_writing()
        for callback in self.on_close:
            self.guard(callback, error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._unread = 0
        drainers, self._drainers = self._drainers, []
        for drainer in drainers:
            if not drainer.done():
                drainer.set_result(None)

    # -- writing
    async def drain(self) -> None:
        """Wait until what was written is (mostly) on its way. Raises ConnectionLost."""
        while self.paused and not self.closed:
            drainer = self.loop.create_future()
            self._drainers.append(drainer)
            await drainer
        if self.closed:
            raise self.gone()

    def flush(self) -> None:
        """See FrameSender."""
        if not self._lost:
            super().flush()

    # -- the end
    def close(self) -> None:
        """End the connection; what was written before is still sent."""
        if self._transport is not None and not self._lost:
            self.flush()
            self.closed = True
            self._transport.close()
            self._stop_timer()
            self._timer = self.loop.call_later(LINGER_SECONDS, self.abort)  # a peer that reads nothing holds nobody up
            self.resume_writing()

    def abort(self) -> None:
        """End the connection at once."""
        self.closed = True
        self._out.clear()
        if self._transport is not None and not self._lost:
            self._transport.abort()

    def break_off(self, error: ProtocolError) -> None:
        """End it because of what the peer did, and say so."""
        if not self.closed:
            self._error = error
            self.farewell(error)
            self.close()
            self._settle_once(error)

    def _settle_once(self, error: Exception) -> None:
        if not self._settled:
            self._settled = True
            self.settle(error)

    def gone(self) -> ConnectionLost:
        """Why nothing can be sent."""
        return ConnectionLost(str(self._error) if self._error is not None else "the connection was lost")

    def extra(self, name: str) -> Any:
        """A property of the transport: "socket", "peername", "ssl_object"."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def guard(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Call what belongs to others: its failure is reported and stops nothing here."""
        try:
            callback(argument)
        except Exception as error:
            self.report("a callback failed", error)

    def report(self, text: str, error: Exception) -> None:
        """A defect, to the loop's exception handler."""
        self.loop.call_exception_handler({"message": text, "exception": error, "protocol": self})

    @property
    def unsent(self) -> bool:
        """Whether something that was written is not even in the kernel yet."""
        return bool(self._out) or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def count_answer(self) -> None:
        """The wire itself answers. Raises ProtocolError where the peer asks on and on but does not read."""
        if self.paused:
            self._unread += 1
            if self._unread > MAX_ANSWERS:
                raise ProtocolError("the peer asks but does not read")

    def _check_unread(self) -> None:
        if self._transport is not None and self._transport.get_write_buffer_size() > MAX_UNREAD:
            self._error = ConnectionLost("the other side sends on but does not read")
            self.abort()

    # -- keeping alive
    def keep_alive(self, seconds: float = KEEPALIVE_SECONDS) -> None:
        """Ping after `seconds` of silence; after as much silence again the connection is given up."""
        if not self.closed:
            self._stop_timer()
            self._heard = self._asked = False
            self._timer = self.loop.call_later(seconds, self._look, seconds)

    def _look(self, seconds: float) -> None:
        if self._heard:
            self._heard = self._asked = False
        elif self._asked:
            self._error = ConnectionLost(f"the other side has been silent for {2 * seconds:g} seconds")
            self.abort()
            return
        else:
            self._asked = True
            self.write(PING)
        self._timer = self.loop.call_later(seconds, self._look, seconds)

    def _greeting_late(self) -> None:
        self.break_off(ProtocolError("the peer did not say hello in time"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- HTTP first
    def ask_upgrade(self, where: Address, then: bytes) -> None:
        """The connecting side on TCP: ask for frames, and send `then` once they may flow."""

        def answered(data: bytes) -> bytes:
            self._head += data
            try:
                begin = upgrade.read_answer(self._head, where)
            except Unreachable as error:
                self._error = error
                self._settle_once(error)
                self.abort()
                return b""
            if not begin:
                return b""
            self._opening = None
            self.write(then)
            rest, self._head = self._head[begin:], b""
            return rest

        self._opening = answered
        self.write(upgrade.request_head(where))

    def _accept_upgrade(self, data: bytes) -> bytes:
        self._head += data
        try:
            what, begin = upgrade.classify(self._head)
        except ProtocolError as error:
            self._error = error
            self.write(upgrade.plain_answer("426 Upgrade Required", f"{error}\n"))
            self.close()
            return b""
        if what == upgrade.MORE:
            return b""
        head, self._head, self._opening = self._head, b"", None
        if what == upgrade.HTTP:
            self._hand_over(head)
            return b""
        if what == upgrade.UPGRADE:
            self.write(upgrade.ACCEPTED)
        return head[begin:]

    def _hand_over(self, data: bytes) -> None:
        """It is HTTP: the transport belongs to somebody else from now on."""
        transport = self._transport
        assert transport is not None
        self._lost = self.closed = True
        self._stop_timer()
        self._settle_once(ConnectionLost("the peer speaks HTTP"))
        protocol = (self._http or PlainAnswer)()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)


class PlainAnswer(asyncio.Protocol):
    """For HTTP where nobody serves it: says what this port is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Whatever the request is, this is the answer."""
        if not self._transport.is_closing():
            status = "200 OK" if data.startswith((b"GET / ", b"HEAD / ")) else "404 Not Found"
            answer = upgrade.plain_answer(status, upgrade.NOTICE)
            self._transport.write(answer[: answer.index(b"\r\n\r\n") + 4] if data.startswith(b"HEAD ") else answer)
            self._transport.close()
