"""A client's HTTP/2 connection: the streams on it, flow control both ways, and limits for clients that mean harm.

The protocol itself is the h2 library's. A stream's window opens as its container takes the body, so a slow app slows
its own client alone; responses wait in their streams until the client's windows and its socket take them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, cast

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings

from intermodal.server.gateway.field_cache import CachingDecoder
from intermodal.server.gateway.http2_stream import Http2Stream
from intermodal.server.gateway.limits import RateLimit
from intermodal.server.gateway.request import Refusal
from intermodal.server.gateway.settings import HEAD_LIMIT
from modal._protocol import tcp

if TYPE_CHECKING:
    from intermodal.server.gateway.gateway import Gateway

log = logging.getLogger("intermodal.gateway")

STREAMS = 100  # requests of a connection at once
STREAM_WINDOW = 1 << 20  # bytes of a request's body that may be on their way
CONNECTION_WINDOW = 8 << 20  # the same of all requests together
HEADS = 2 * HEAD_LIMIT  # bytes of a head that are decoded, to be answered with 431; beyond, the connection ends
HIGH_WATER = 256 << 10  # bytes that wait for a client to read, above which its responses are held up
TURN = 64 << 10  # bytes of one response before it is another one's turn
RESETS = (50.0, 4.0)  # requests a second that a client may take back, and for how many seconds it may do so at once
CONTROLS = (200.0, 10.0)  # the same of frames that ask for work and carry nothing
LINGER_SECONDS = 2.0  # that the client has to read the last of a connection
_CONTROLS = (events.PingReceived, events.RemoteSettingsChanged, events.PriorityUpdated, events.UnknownFrameReceived)


class Http2Connection(asyncio.Protocol):
    """`gateway.admit` gets each request with its stream."""

    def __init__(self, gateway: Gateway, within: bool = False) -> None:
        self.within = within  # see client.Client
        self.streams: dict[int, Http2Stream] = {}
        self.secure = False
        self.peer: tuple[str, int] = ("", 0)
        self.body_limit = gateway.settings.body_limit
        self.too_large = gateway.too_large()
        self._gateway = gateway
        config = H2Configuration(client_side=False, header_encoding=None)
        config.validate_outbound_headers = config.normalize_outbound_headers = False  # StreamHead has checked them
        self._wire = H2Connection(config)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[Http2Stream] = deque()  # with a body that could not be sent yet
        self._new: list[Http2Stream] = []  # to be admitted when all that has come is looked at
        self._fed: dict[Http2Stream, None] = {}  # of whose body something has come
        self._writable = True
        self._unsent = 0  # bytes of bodies in the wire's buffer
        self._corked = False
        self._closing = False
        self._resets = RateLimit(*RESETS)
        self._controls = RateLimit(*CONTROLS)
        self._since = time.monotonic()  # of the last stream's begin or end

    # -- the event loop's calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            tcp.tune_descriptor(sock.fileno())
        self.peer = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.secure = transport.get_extra_info("ssl_object") is not None
        self._gateway.connections.add(self)
        wire = self._wire
        wire.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADS,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,  # WebSockets: RFC 8441
            },
        )
        wire.decoder = CachingDecoder()
        wire.decoder.max_header_list_size = HEADS
        wire.encoder.encode = partial(wire.encoder.encode, huffman=False)  # type: ignore[method-assign]  # costs more than it saves
        wire.initiate_connection()
        wire.increment_flow_control_window(CONNECTION_WINDOW - wire.inbound_flow_control_window)
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._corked = True
        try:
            for event in self._wire.receive_data(data):
                self._take(event)
            self._feed()
            new, self._new = self._new, []
            for stream in new:
                self._admit(stream)
        except ProtocolError as error:
            log.info("%s: a client of HTTP/2 broke the protocol: %s", self.peer[0], error)
            self._end()  # the wire has said why in a GOAWAY
        except Exception:
            log.exception("an HTTP/2 connection failed")
            self._end()
        finally:
            self._corked = False
            self._flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.connections.discard(self)
        self._closing = True
        self._transport = None
        self._leave()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._pump_all()

    # -- what the client sends
    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.DataReceived):
            self._take_data(event)
        elif isinstance(event, events.RequestReceived):
            self._take_request(event)
        elif isinstance(event, events.StreamEnded):
            stream = self.streams.get(event.stream_id)
            if stream is not None and not stream.received:
                stream.ended = True
                self._fed[stream] = None
        elif isinstance(event, events.StreamReset):
            self._take_reset(event)
        elif isinstance(event, events.WindowUpdated):
            self._pump_all()
        elif isinstance(event, _CONTROLS):
            self._count(self._controls, "it sends too many frames that carry nothing")
            if isinstance(event, events.RemoteSettingsChanged):
                self._pump_all()  # it may have opened the windows

    def _take_request(self, event: events.RequestReceived) -> None:
        self._since = time.monotonic()
        stream = self.streams[event.stream_id] = Http2Stream(self, event.stream_id)
        try:
            stream.take_head(event.headers, event.stream_ended is not None)
        except Refusal as refusal:
            stream.give_up(refusal)
        else:
            self._new.append(stream)

    def _take_data(self, event: events.DataReceived) -> None:
        size = event.flow_controlled_length or 0
        stream = self.streams.get(event.stream_id)
        if stream is None:  # it was under way when the stream ended
            self.acknowledge(event.stream_id, size)
            return
        if not event.data:
            if event.stream_ended is None:
                self._count(self._controls, "it sends too many frames that carry nothing")
            self.acknowledge(event.stream_id, size)
            return
        stream.parts.append(event.data)
        stream.parts_size += size
        self._fed[stream] = None

    def _feed(self) -> None:
        """Give on what has come of bodies: many frames are one part."""
        fed, self._fed = self._fed, {}
        for stream in fed:
            try:
                stream.take_body()
            except Refusal as refusal:
                stream.give_up(refusal)

    def _take_reset(self, event: events.StreamReset) -> None:
        stream = self.streams.pop(event.stream_id, None)
        if stream is not None:
            self._since = time.monotonic()
            stream.leave()
        self._count(self._resets, "it takes back too many requests")

    def _count(self, limit: RateLimit, what: str) -> None:
        if limit.take() and not self._closing:
            log.warning("%s: an HTTP/2 connection is ended: %s", self.peer[0], what)
            self._wire.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, what.encode())
            self._end()

    def _admit(self, stream: Http2Stream) -> None:
        if self._closing or not stream.is_open:
            return
        stream.request.dispatched = True
        try:
            self._gateway.admit(stream, stream.request)
        except Refusal as refusal:
            stream.turn_away(refusal)

    # -- what streams ask for
    def acknowledge(self, number: int, size: int) -> None:
        """So many bytes of a request's body need no window any more."""
        if size and not self._closing:
            try:
                self._wire.acknowledge_received_data(size, number)
            except StreamClosedError:
                pass
            self._flush_later()

    def send_head(self, number: int, fields: list[tuple[bytes, bytes]], end: bool) -> bool:
        """Whether the stream was still open."""
        if self._closing:
            return False
        try:
            self._wire.send_headers(number, fields, end_stream=end)
        except ProtocolError:
            return False
        self._flush_later()
        return True

    def pump(self, stream: Http2Stream) -> None:
        """Send what its client's windows and the socket take."""
        if stream in self._waiting:
            return
        if not self._send(stream, 1 << 62):
            self._waiting.append(stream)
        self._flush_later()

    def _pump_all(self) -> None:
        """One after the other, a bit of each, until nothing can go."""
        stuck = 0
        while self._waiting and stuck < len(self._waiting) and self._writable and not self._closing:
            stream = self._waiting.popleft()
            before = sum(map(len, stream.out))
            if self._send(stream, TURN):
                continue
            self._waiting.append(stream)
            stuck = 0 if sum(map(len, stream.out)) < before else stuck + 1
        self._flush_later()

    def _send(self, stream: Http2Stream, most: int) -> bool:
        """Whether nothing of the stream has to wait."""
        wire, number, out = self._wire, stream.number, stream.out
        try:
            while out and most > 0 and self._writable and not self._closing:
                part = out[0]
                size = min(len(part), wire.local_flow_control_window(number), wire.max_outbound_frame_size)
                if size <= 0:
                    return False
                if size < len(part):
                    out[0] = part[size:]
                else:
                    out.popleft()
                last = stream.ending and not out
                wire.send_data(number, part[:size], end_stream=last)
                most -= size
                self._unsent += size
                if self._unsent > TURN:
                    self._flush()  # which may say that the socket takes no more
                stream.taken(size)
                if last:
                    stream.over()
                    return True
            if not out and stream.ending and stream.is_open and not self._closing:
                wire.end_stream(number)
                stream.over()
        except ProtocolError:  # the stream was closed meanwhile: its reset is among the events
            return True
        return not out

    def finished(self, stream: Http2Stream) -> None:
        """Its response was sent as a whole."""
        self.streams.pop(stream.number, None)
        self._since = time.monotonic()
        if not stream.received:
            self._reset(stream.number, ErrorCodes.NO_ERROR)  # what is left of the request is not wanted

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """It ends without a proper end."""
        stream.out.clear()
        self.streams.pop(stream.number, None)
        self._since = time.monotonic()
        self._reset(stream.number, code)

    def _reset(self, number: int, code: ErrorCodes) -> None:
        if not self._closing:
            try:
                self._wire.reset_stream(number, code)
            except ProtocolError:
                pass
            self._flush_later()

    # -- the socket
    def _flush_later(self) -> None:
        """What is sent during one turn of the loop leaves together."""
        if not self._corked:
            self._corked = True
            asyncio.get_running_loop().call_soon(self._uncork)

    def _uncork(self) -> None:
        self._corked = False
        self._flush()

    def _flush(self) -> None:
        self._unsent = 0
        data = self._wire.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)

    # -- the end
    def look(self, now: float) -> None:
        """See client.Connection."""
        limits = self._gateway.settings
        for stream in list(self.streams.values()):
            if stream.is_late and now - stream.since > limits.body_timeout:
                stream.give_up(Refusal(408, "the request's body did not arrive in time"))
        if not self.streams and now - self._since > limits.idle_timeout:
            self._say_goodbye()

    def shut(self) -> None:
        """See client.Connection: what the client has sent since is not at work, and can be sent elsewhere."""
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if not self._closing:
            self._wire.close_connection()
            self._end()
            self._flush()

    def _end(self) -> None:
        """No more of it; what was said last still goes out."""
        self._closing = True
        self._leave()
        self._flush()
        transport = self._transport
        if transport is not None:
            transport.close()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, transport.abort)

    def _leave(self) -> None:
        self._waiting.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.leave()
