"""HTTP/2's frames, as a server sees them (RFC 9113): what is taken, what is sent, and both sides' windows.

Only bytes and states: nothing here knows of sockets or requests. Whatever breaks the protocol ends the connection, as
the RFC allows for errors of single streams too.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from struct import Struct
from typing import Protocol

from hpack.exceptions import HPACKError, OversizedHeaderListError

from intermodal.server.gateway.header_decoder import Fields, HeaderDecoder
from intermodal.server.gateway.header_encoder import HeaderEncoder
from intermodal.server.gateway.header_rules import Malformed, check_request, check_trailers

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME = 16384  # bytes of a frame that a client may send
LARGEST_WINDOW = (1 << 31) - 1
FIRST_WINDOW = 65535  # of a connection, and of streams until a setting says more
CONTINUATIONS = 64  # of one head
REMEMBERED = 1000  # streams that were ended early, of which something may still be under way
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
TABLE_SIZE, ENABLE_PUSH, STREAMS, INITIAL_WINDOW, FRAME_SIZE, HEAD_SIZE, CONNECT_PROTOCOL = 1, 2, 3, 4, 5, 6, 8
_PREFIX = Struct(">BHBBL")  # length (in two parts), type, flags, stream
_NUMBER = Struct(">L")
_SETTING = Struct(">HL")


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class WireError(Exception):
    """The client breaks the protocol: the connection ends, with this code."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


class Taker(Protocol):
    """Who hears what the client sends, while it is taken."""

    def take_request(self, number: int, fields: Fields, ended: bool) -> None:
        """A head. `ended`: it is the whole request."""

    def take_data(self, number: int, data: bytes, size: int) -> None:
        """A part of a body, which took `size` bytes of the windows: to be acknowledged."""

    def take_end(self, number: int) -> None:
        """The client's side of the stream has ended."""

    def take_reset(self, number: int) -> None:
        """The client has taken the stream back."""

    def take_window(self) -> None:
        """More can be sent."""

    def take_control(self) -> None:
        """A frame that asks for work and carries nothing."""


class _Stream:
    __slots__ = ("ended", "expected", "received", "send_window", "unacknowledged", "window")

    def __init__(self, window: int, send_window: int, ended: bool, expected: int) -> None:
        self.window = window  # bytes that the client may still send
        self.unacknowledged = 0  # bytes that were taken, and that the client was not told of
        self.send_window = send_window
        self.ended = ended  # the client's side
        self.expected = expected  # bytes of the body, as its Content-Length says; -1: it does not
        self.received = 0


class Wire:
    """`receive` what comes, `output()` what is to be sent."""

    def __init__(self, taker: Taker, *, streams: int, stream_window: int, window: int, head: int) -> None:
        """Limits: streams at once, bytes of bodies under way of one and of all, bytes of a decoded head."""
        self.send_window = FIRST_WINDOW
        self.frame_size = FRAME  # that the client takes
        self.last = 0  # the newest stream
        self._taker = taker
        self._streams: dict[int, _Stream] = {}
        self._most = streams
        self._stream_window = stream_window
        self._connection_window = window
        self._head_limit = head
        self._window = window
        self._unacknowledged = 0
        self._first_send_window = FIRST_WINDOW
        self._early: dict[int, None] = {}  # streams that were ended before the client's side had
        self._decoder = HeaderDecoder(head)
        self._encoder = HeaderEncoder()
        self._buffer = b""
        self._started = False  # the client's preface is over
        self._settled = False  # its settings have come
        self._head: tuple[int, int, list[bytes]] | None = None  # a head that goes on: stream, flags, parts
        self._over = False
        settings = ((STREAMS, streams), (INITIAL_WINDOW, stream_window), (HEAD_SIZE, head), (CONNECT_PROTOCOL, 1))
        content = b"".join(_SETTING.pack(*setting) for setting in settings)
        self._out = [_frame(SETTINGS, 0, 0, content), _frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(window - FIRST_WINDOW))]

    # -- what comes
    def receive(self, data: bytes) -> None:
        """Raises WireError: the client is to be told by `goodbye`."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        at, end = 0, len(data)
        if not self._started:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise WireError(Code.PROTOCOL_ERROR, "the preface is none")
            if end < len(PREFACE):
                self._buffer = data
                return
            self._started, at = True, len(PREFACE)
        while end - at >= 9:
            high, low, kind, flags, number = _PREFIX.unpack_from(data, at)
            size = high << 16 | low
            if size > FRAME:
                raise WireError(Code.FRAME_SIZE_ERROR, "a frame is too long")
            after = at + 9 + size
            if after > end:
                break
            if not self._over:
                self._take(kind, flags, number & LARGEST_WINDOW, data[at + 9 : after])
            at = after
        if at < end:
            self._buffer = data[at:]

    def _take(self, kind: int, flags: int, number: int, data: bytes) -> None:
        if self._head is not None:
            self._take_continuation(kind, flags, number, data)
        elif kind == HEADERS and self._settled:
            self._take_headers(flags, number, data)
        elif kind == DATA and self._settled:
            self._take_data(flags, number, data)
        elif kind == SETTINGS:
            self._take_settings(flags, number, data)
        elif not self._settled:
            raise WireError(Code.PROTOCOL_ERROR, "a connection begins with settings")
        elif kind == WINDOW_UPDATE:
            self._take_window(number, data)
        elif kind == RST_STREAM:
            self._take_reset(number, data)
        elif kind == PING:
            _check(number == 0, "a ping is the connection's")
            _check(len(data) == 8, "a ping has 8 bytes", Code.FRAME_SIZE_ERROR)
            self._taker.take_control()
            if not flags & ACK:
                self._out.append(_frame(PING, ACK, 0, data))
        elif kind == PRIORITY:
            _check(number != 0, "a priority is a stream's")
            _check(len(data) == 5, "a priority has 5 bytes", Code.FRAME_SIZE_ERROR)
            _check_priority(data, number)
            self._taker.take_control()
        elif kind == GOAWAY:
            _check(number == 0, "a good-bye is the connection's")
            _check(len(data) >= 8, "a good-bye has 8 bytes", Code.FRAME_SIZE_ERROR)
        elif kind in (PUSH_PROMISE, CONTINUATION):
            raise WireError(Code.PROTOCOL_ERROR, "a client may not send this frame here")
        else:
            self._taker.take_control()

    # -- heads
    def _take_headers(self, flags: int, number: int, data: bytes) -> None:
        _check(number & 1 == 1, "clients begin streams with odd numbers")
        if flags & (PADDED | WITH_PRIORITY):
            data = _unpadded(flags, data)
            if flags & WITH_PRIORITY:
                _check(len(data) >= 5, "the priority is cut off", Code.FRAME_SIZE_ERROR)
                _check_priority(data, number)
                data = data[5:]
        if flags & END_HEADERS:
            self._head_over(flags, number, data)
        else:
            self._head = number, flags, [data]

    def _take_continuation(self, kind: int, flags: int, number: int, data: bytes) -> None:
        assert self._head is not None
        begun, first, parts = self._head
        _check(kind == CONTINUATION and number == begun, "a head was not ended")
        parts.append(data)
        if len(parts) > CONTINUATIONS or sum(map(len, parts)) > self._head_limit:
            raise WireError(Code.ENHANCE_YOUR_CALM, "a head is too long")
        if flags & END_HEADERS:
            self._head = None
            self._head_over(first, number, b"".join(parts))

    def _head_over(self, flags: int, number: int, block: bytes) -> None:
        try:
            fields = self._decoder.decode(block)
        except OversizedHeaderListError:
            raise WireError(Code.ENHANCE_YOUR_CALM, "a head is too long") from None
        except HPACKError as error:
            raise WireError(Code.COMPRESSION_ERROR, f"a head cannot be decoded: {error}") from None
        ended = bool(flags & END_STREAM)
        try:
            if number > self.last:
                self._begin(number, fields, ended)
            else:
                self._take_trailers(number, fields, ended)
        except Malformed as error:
            raise WireError(Code.PROTOCOL_ERROR, str(error)) from None

    def _begin(self, number: int, fields: Fields, ended: bool) -> None:
        if not fields.sound:
            check_request(fields)
            fields.sound = True
        if len(self._streams) >= self._most:
            raise WireError(Code.PROTOCOL_ERROR, "more streams than are allowed")
        self.last = number
        expected = -1
        if not ended:
            expected = next((int(value) for name, value in fields if name == b"content-length"), -1)
        self._streams[number] = _Stream(self._stream_window, self._first_send_window, ended, expected)
        self._taker.take_request(number, fields, ended)

    def _take_trailers(self, number: int, fields: Fields, ended: bool) -> None:
        stream = self._stream(number)
        if stream is None:
            return
        _check(not stream.ended, "the stream has ended", Code.STREAM_CLOSED)
        _check(ended, "trailers end their stream")
        check_trailers(fields)
        self._end(number, stream)

    # -- bodies
    def _take_data(self, flags: int, number: int, data: bytes) -> None:
        size = len(data)
        self._window -= size
        _check(self._window >= 0, "more than the connection's window", Code.FLOW_CONTROL_ERROR)
        if flags & PADDED:
            data = _unpadded(flags, data)
        stream = self._stream(number)
        if stream is None:
            self._taker.take_control()
            self._acknowledge(size)
            return
        _check(not stream.ended, "the stream has ended", Code.STREAM_CLOSED)
        stream.window -= size
        _check(stream.window >= 0, "more than the stream's window", Code.FLOW_CONTROL_ERROR)
        stream.received += len(data)
        _check(stream.expected < 0 or stream.received <= stream.expected, "a body is longer than its Content-Length")
        if data:
            self._taker.take_data(number, data, size)
        else:
            self.acknowledge(number, size)
            if not flags & END_STREAM:
                self._taker.take_control()
        if flags & END_STREAM:
            self._end(number, stream)

    def _end(self, number: int, stream: _Stream) -> None:
        _check(stream.expected < 0 or stream.received == stream.expected, "a body is shorter than its Content-Length")
        stream.ended = True
        self._taker.take_end(number)

    def _stream(self, number: int) -> _Stream | None:
        """None where it was ended early, and the client may not know it yet."""
        stream = self._streams.get(number)
        if stream is None and number not in self._early:
            self._check_known(number)
            raise WireError(Code.STREAM_CLOSED, "the stream is closed")
        return stream

    def _check_known(self, number: int) -> None:
        _check(number & 1 == 1 and number <= self.last, "the stream was never begun")

    # -- smaller frames
    def _take_settings(self, flags: int, number: int, data: bytes) -> None:
        _check(number == 0, "settings are the connection's")
        if flags & ACK:
            _check(not data, "an acknowledgement is empty", Code.FRAME_SIZE_ERROR)
            _check(self._settled, "a connection begins with settings")
            return
        _check(len(data) % 6 == 0, "a setting has 6 bytes", Code.FRAME_SIZE_ERROR)
        for name, value in _SETTING.iter_unpack(data):
            if name == TABLE_SIZE:
                self._encoder.resize(value)
            elif name in (ENABLE_PUSH, CONNECT_PROTOCOL):
                _check(value <= 1, "the setting is 0 or 1")
            elif name == INITIAL_WINDOW:
                self._resize_windows(value)
            elif name == FRAME_SIZE:
                _check(FRAME <= value < 1 << 24, "frames cannot be of this size")
                self.frame_size = min(value, FRAME)  # larger ones would hold up others
        self._out.append(_frame(SETTINGS, ACK, 0, b""))
        if self._settled:
            self._taker.take_control()
        self._settled = True
        self._taker.take_window()

    def _resize_windows(self, value: int) -> None:
        _check(value <= LARGEST_WINDOW, "a window is too large", Code.FLOW_CONTROL_ERROR)
        change = value - self._first_send_window
        self._first_send_window = value
        for stream in self._streams.values():
            stream.send_window += change
            _check(stream.send_window <= LARGEST_WINDOW, "a window is too large", Code.FLOW_CONTROL_ERROR)

    def _take_window(self, number: int, data: bytes) -> None:
        _check(len(data) == 4, "a window's update has 4 bytes", Code.FRAME_SIZE_ERROR)
        size = _NUMBER.unpack(data)[0] & LARGEST_WINDOW
        _check(size > 0, "a window grows by something")
        if number == 0:
            self.send_window += size
            window = self.send_window
        else:
            stream = self._streams.get(number)
            if stream is None:
                self._check_known(number)
                self._taker.take_control()
                return
            stream.send_window += size
            window = stream.send_window
        _check(window <= LARGEST_WINDOW, "a window is too large", Code.FLOW_CONTROL_ERROR)
        self._taker.take_window()

    def _take_reset(self, number: int, data: bytes) -> None:
        _check(len(data) == 4, "a reset has 4 bytes", Code.FRAME_SIZE_ERROR)
        self._check_known(number)
        if self._streams.pop(number, None) is not None:
            self._remember(number)
        self._taker.take_reset(number)

    # -- what is sent
    def output(self) -> bytes:
        """What is to be sent since the last time."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def send_head(self, number: int, fields: Sequence[tuple[bytes, bytes]], end: bool) -> bool:
        """Whether the stream was still open."""
        stream = self._streams.get(number)
        if stream is None or self._over:
            return False
        block = self._encoder.encode(fields)
        flags = END_STREAM if end else 0
        size = self.frame_size
        if len(block) <= size:
            self._out.append(_PREFIX.pack(0, len(block), HEADERS, flags | END_HEADERS, number) + block)
        else:
            parts = [block[at : at + size] for at in range(0, len(block), size)]
            self._out.append(_frame(HEADERS, flags, number, parts[0]))
            self._out += [_frame(CONTINUATION, 0, number, part) for part in parts[1:-1]]
            self._out.append(_frame(CONTINUATION, END_HEADERS, number, parts[-1]))
        if end:
            self._sent_all(number, stream)
        return True

    def room(self, number: int) -> int:
        """Bytes of a body that the stream's next frame may have: 0 or less where its client takes none."""
        stream = self._streams.get(number)
        return 0 if stream is None else min(stream.send_window, self.send_window, self.frame_size)

    def send_data(self, number: int, data: bytes | memoryview, end: bool) -> bool:
        """At most as much as there is `room`. Whether the stream was still open."""
        stream = self._streams.get(number)
        if stream is None or self._over:
            return False
        size = len(data)
        stream.send_window -= size
        self.send_window -= size
        self._out.append(_PREFIX.pack(0, size, DATA, END_STREAM if end else 0, number))
        if size:
            self._out.append(data)  # type: ignore[arg-type]  # joined by `output`
        if end:
            self._sent_all(number, stream)
        return True

    def _sent_all(self, number: int, stream: _Stream) -> None:
        if stream.ended:
            del self._streams[number]

    def reset(self, number: int, code: Code) -> None:
        """End a stream, if it is there."""
        if self._streams.pop(number, None) is not None and not self._over:
            self._remember(number)
            self._out.append(_frame(RST_STREAM, 0, number, _NUMBER.pack(code)))

    def _remember(self, number: int) -> None:
        self._early[number] = None
        if len(self._early) > REMEMBERED:
            del self._early[next(iter(self._early))]

    def acknowledge(self, number: int, size: int) -> None:
        """So many bytes of a stream's body need no window any more."""
        self._acknowledge(size)
        stream = self._streams.get(number)
        if stream is None or stream.ended or self._over:
            return
        stream.unacknowledged += size
        if _is_due(stream.unacknowledged, stream.window, self._stream_window):
            self._out.append(_frame(WINDOW_UPDATE, 0, number, _NUMBER.pack(stream.unacknowledged)))
            stream.window += stream.unacknowledged
            stream.unacknowledged = 0

    def _acknowledge(self, size: int) -> None:
        self._unacknowledged += size
        if _is_due(self._unacknowledged, self._window, self._connection_window) and not self._over:
            self._out.append(_frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._unacknowledged)))
            self._window += self._unacknowledged
            self._unacknowledged = 0

    def goodbye(self, code: Code, text: str = "") -> None:
        """The last that is sent; what comes is looked at no more."""
        if not self._over:
            self._over = True
            self._out.append(_frame(GOAWAY, 0, 0, _NUMBER.pack(self.last) + _NUMBER.pack(code) + text.encode()[:200]))


def _frame(kind: int, flags: int, number: int, data: bytes) -> bytes:
    return _PREFIX.pack(len(data) >> 16, len(data) & 0xFFFF, kind, flags, number) + data


def _check(holds: bool, text: str, code: Code = Code.PROTOCOL_ERROR) -> None:
    if not holds:
        raise WireError(code, text)


def _check_priority(data: bytes, number: int) -> None:
    _check(_NUMBER.unpack_from(data)[0] & LARGEST_WINDOW != number, "a stream cannot depend on itself")


def _unpadded(flags: int, data: bytes) -> bytes:
    if not flags & PADDED:
        return data
    _check(len(data) > 0, "the padding's length is cut off", Code.FRAME_SIZE_ERROR)
    _check(data[0] < len(data), "there is more padding than frame")
    return data[1 : len(data) - data[0]]


def _is_due(size: int, window: int, most: int) -> bool:
    """Whether the client is to be told of so many bytes."""
    return size >= most // 2 or (size >= 1024 and window < most // 4)
