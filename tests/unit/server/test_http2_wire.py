"""HTTP/2's frames: what clients may send, what ends the connection and with which code (RFC 9113), and what is sent.

The h2 library, strict itself, is the measure: what it refuses is refused here too.
"""

from __future__ import annotations

from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from intermodal.server.gateway.header_decoder import Fields
from intermodal.server.gateway.header_encoder import HeaderEncoder
from intermodal.server.gateway.http2_wire import PREFACE, Code, Wire, WireError

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/")]
POST = [(":method", "POST"), *GET[1:]]
LIMITS: dict[str, Any] = {"streams": 5, "stream_window": 100_000, "window": 300_000, "head": 20_000}


class Heard:
    """A `Taker` that notes what it hears, and acknowledges bodies at once unless it is told not to."""

    def __init__(self, takes: bool = True) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self.takes = takes
        self.wire = Wire(self, **LIMITS)

    def take_request(self, number: int, fields: Fields, ended: bool) -> None:
        self.seen.append(("request", number, ended))

    def take_data(self, number: int, data: bytes, size: int) -> None:
        self.seen.append(("data", number, data))
        if self.takes:
            self.wire.acknowledge(number, size)

    def take_end(self, number: int) -> None:
        self.seen.append(("end", number))

    def take_reset(self, number: int) -> None:
        self.seen.append(("reset", number))

    def take_window(self) -> None:
        pass

    def take_control(self) -> None:
        self.seen.append(("control",))

    def start(self) -> None:
        self.wire.receive(PREFACE + SettingsFrame(0).serialize())


def head(number: int, fields: list[tuple[str, str]], *, end: bool = True) -> bytes:
    """HEADERS whose fields leave no trace in the table, so that it stands alone."""
    block = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
    return raw(1, 5 if end else 4, number, block)


def raw(kind: int, flags: int, number: int, data: bytes = b"") -> bytes:
    return len(data).to_bytes(3) + bytes((kind, flags)) + number.to_bytes(4) + data


P, F, S, W = (
    Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR, Code.STREAM_CLOSED, Code.FLOW_CONTROL_ERROR,
)  # fmt: skip
OPEN = head(1, POST, end=False)
DONE = head(1, GET)
FORBIDDEN: dict[str, tuple[bytes, Code]] = {
    "data-on-the-connection": (raw(0, 0, 0, b"x"), P),
    "data-of-no-stream": (raw(0, 0, 1, b"x"), P),
    "data-of-an-even-stream": (DONE + raw(0, 0, 2, b"x"), P),
    "data-behind-the-end": (DONE + raw(0, 0, 1, b"x"), S),
    "data-behind-trailers": (OPEN + head(1, [("a", "b")]) + raw(0, 0, 1, b"x"), S),
    "data-with-too-much-padding": (OPEN + raw(0, 8, 1, b"\x06abcde"), P),
    "data-without-its-padding": (OPEN + raw(0, 8, 1, b""), F),
    "a-frame-that-is-too-long": (OPEN + raw(0, 0, 1, bytes(16385)), F),
    "more-than-the-window": (OPEN + b"".join(raw(0, 0, 1, bytes(16384)) for _ in range(7)), W),
    "head-on-the-connection": (head(0, GET), P),
    "head-of-an-even-stream": (head(2, GET), P),
    "head-of-an-older-stream": (head(3, GET) + head(1, GET), S),
    "head-behind-the-end": (DONE + head(1, [("a", "b")]), S),
    "trailers-that-go-on": (OPEN + head(1, [("a", "b")], end=False), P),
    "trailers-with-a-path": (OPEN + head(1, [(":path", "/")]), P),
    "a-stream-too-many": (b"".join(head(number, POST, end=False) for number in range(1, 13, 2)), P),
    "head-that-depends-on-itself": (raw(1, 0x25, 1, b"\0\0\0\x01\x10" + head(1, GET)[9:]), P),
    "head-with-half-a-priority": (raw(1, 0x25, 1, b"\0\0"), F),
    "head-with-too-much-padding": (raw(1, 0x0D, 1, b"\x20" + head(1, GET)[9:20]), P),
    "head-that-cannot-be-decoded": (raw(1, 5, 1, b"\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "head-of-an-unknown-index": (raw(1, 5, 1, b"\xbe"), Code.COMPRESSION_ERROR),
    "head-that-is-interrupted": (raw(1, 1, 1, b"") + raw(6, 0, 0, bytes(8)), P),
    "head-continued-elsewhere": (raw(1, 1, 1, b"") + raw(9, 4, 3, b""), P),
    "head-without-end": (raw(1, 1, 1, b"") + raw(9, 0, 1, b"") * 100, Code.ENHANCE_YOUR_CALM),
    "head-that-is-too-long": (
        raw(1, 1, 1, bytes(16000)) + raw(9, 0, 1, bytes(16000)), Code.ENHANCE_YOUR_CALM,
    ),
    "continuation-of-nothing": (raw(9, 4, 1, b""), P),
    "priority-on-the-connection": (raw(2, 0, 0, bytes(5)), P),
    "priority-of-itself": (raw(2, 0, 1, b"\0\0\0\x01\x10"), P),
    "priority-that-is-cut-off": (raw(2, 0, 1, bytes(4)), F),
    "reset-on-the-connection": (raw(3, 0, 0, bytes(4)), P),
    "reset-of-no-stream": (raw(3, 0, 1, bytes(4)), P),
    "reset-that-is-cut-off": (OPEN + raw(3, 0, 1, bytes(3)), F),
    "settings-of-a-stream": (raw(4, 0, 1, b""), P),
    "settings-that-are-cut-off": (raw(4, 0, 0, bytes(5)), F),
    "acknowledged-with-content": (raw(4, 1, 0, bytes(6)), F),
    "push-neither-on-nor-off": (SettingsFrame(0, {2: 2}).serialize(), P),
    "connect-neither-on-nor-off": (SettingsFrame(0, {8: 2}).serialize(), P),
    "first-window-too-large": (SettingsFrame(0, {4: 1 << 31}).serialize(), W),
    "frames-too-small": (SettingsFrame(0, {5: 16383}).serialize(), P),
    "frames-too-large": (SettingsFrame(0, {5: 1 << 24}).serialize(), P),
    "push": (raw(5, 4, 1, bytes(4)), P),
    "ping-of-a-stream": (raw(6, 0, 1, bytes(8)), P),
    "ping-of-seven": (raw(6, 0, 0, bytes(7)), F),
    "goodbye-of-a-stream": (raw(7, 0, 1, bytes(8)), P),
    "goodbye-that-is-cut-off": (raw(7, 0, 0, bytes(7)), F),
    "window-by-nothing": (raw(8, 0, 0, bytes(4)), P),
    "window-of-a-stream-by-nothing": (OPEN + raw(8, 0, 1, bytes(4)), P),
    "window-of-no-stream": (raw(8, 0, 1, b"\0\0\0\x01"), P),
    "window-that-is-cut-off": (raw(8, 0, 0, bytes(3)), F),
    "window-beyond": (raw(8, 0, 0, b"\x7f\xff\xff\xff"), W),
    "window-of-a-stream-beyond": (OPEN + raw(8, 0, 1, b"\x7f\xff\xff\xff"), W),
    "windows-beyond-by-a-setting": (
        OPEN + raw(8, 0, 1, b"\x7f\xff\x00\x00") + SettingsFrame(0, {4: 1 << 17}).serialize(), W,
    ),
    "body-longer-than-said": (head(1, [*POST, ("content-length", "1")], end=False) + raw(0, 0, 1, b"ab"), P),
    "body-shorter-than-said": (head(1, [*POST, ("content-length", "3")], end=False) + raw(0, 1, 1, b"ab"), P),
    "no-body-but-a-length-by-trailers": (
        head(1, [*POST, ("content-length", "3")], end=False) + head(1, [("a", "b")]), P,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_what_ends_the_connection(name: str) -> None:
    data, code = FORBIDDEN[name]
    heard = Heard(takes=False)
    heard.start()
    heard.wire.output()
    with pytest.raises(WireError) as error:
        heard.wire.receive(data)
    assert error.value.code == code
    heard.wire.goodbye(error.value.code, str(error.value))
    last = heard.wire.output()
    assert last[-8 - len(str(error.value)) :].startswith(heard.wire.last.to_bytes(4) + int(code).to_bytes(4))
    before = len(heard.seen)
    heard.wire.receive(head(101, GET))  # what follows is not looked at
    assert len(heard.seen) == before


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" * 2, PREFACE + PingFrame(0, bytes(8)).serialize()])
def test_how_a_connection_begins(data: bytes) -> None:
    with pytest.raises(WireError):
        Heard().wire.receive(data)


ALLOWED: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "a-request": (DONE, [("request", 1, True)]),
    "padding-and-priority": (
        raw(1, 0x2D, 1, b"\x03\0\0\0\0\x10" + DONE[9:] + bytes(3)), [("request", 1, True)],
    ),
    "a-head-in-pieces": (
        raw(1, 1, 1, DONE[9:15]) + raw(9, 0, 1, b"") + raw(9, 4, 1, DONE[15:]), [("request", 1, True)],
    ),
    "a-body": (
        OPEN + raw(0, 8, 1, b"\x02abc\0\0") + raw(0, 0, 1, b"d") + raw(0, 1, 1, b""),
        [("request", 1, False), ("data", 1, b"abc"), ("data", 1, b"d"), ("end", 1)],
    ),
    "trailers": (
        OPEN + raw(0, 0, 1, b"a") + head(1, [("x-sum", "1")]),
        [("request", 1, False), ("data", 1, b"a"), ("end", 1)],
    ),
    "a-length-that-is-right": (
        head(1, [*POST, ("content-length", "2")], end=False) + raw(0, 1, 1, b"ab"),
        [("request", 1, False), ("data", 1, b"ab"), ("end", 1)],
    ),
    "what-nobody-knows": (raw(77, 255, 9, b"abc") + SettingsFrame(0, {99: 1}).serialize(), [("control",)] * 2),
    "what-comes-behind-a-reset": (
        OPEN + RstStreamFrame(1, 8).serialize() + raw(8, 0, 1, b"\0\0\0\x01") + raw(0, 0, 1, b"x"),
        [("request", 1, False), ("reset", 1), ("control",), ("control",)],
    ),
    "a-goodbye": (GoAwayFrame(0).serialize() + DONE, [("request", 1, True)]),
    "priorities-of-streams-to-come": (PriorityFrame(7, 0, 3, False).serialize(), [("control",)]),
    "te-trailers": (head(1, [*GET, ("te", "trailers")]), [("request", 1, True)]),
    "connect-for-a-protocol": (
        head(1, [(":method", "CONNECT"), (":protocol", "websocket"), *GET[1:]], end=False), [("request", 1, False)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_is_taken_however_it_comes(name: str, size: int) -> None:
    data, seen = ALLOWED[name]
    heard = Heard()
    heard.start()
    for at in range(0, len(data), size):
        heard.wire.receive(data[at : at + size])
    assert heard.seen == seen


def test_pings_and_settings_are_answered() -> None:
    heard = Heard()
    heard.start()
    heard.wire.output()
    heard.wire.receive(PingFrame(0, b"12345678").serialize() + PingFrame(0, b"x" * 8, flags=["ACK"]).serialize())
    heard.wire.receive(SettingsFrame(0, {1: 100}).serialize())
    assert heard.wire.output() == raw(6, 1, 0, b"12345678") + raw(4, 1, 0)


# -- beside h2: whatever it refuses is refused
HEAD_NAMES = st.sampled_from(
    [":method", ":scheme", ":path", ":authority", ":protocol", ":status", ":x", "host", "te", "connection", "upgrade",
     "content-length", "cookie", "x-a", "X-A", "x a", "", "keep-alive", "transfer-encoding", "proxy-connection"]
)  # fmt: skip
HEAD_VALUES = st.sampled_from(
    ["GET", "CONNECT", "http", "/", "", "a.example", "b", "trailers", "1", " x", "x\t", "a\nb"]
)
HEADS = st.builds(
    lambda base, more, cut: [one for at, one in enumerate([*base, *more]) if at != cut],
    st.sampled_from([GET, POST, [(":method", "CONNECT"), (":authority", "a.example")], []]),
    st.lists(st.tuples(HEAD_NAMES, HEAD_VALUES), max_size=3),
    st.integers(0, 12),
)
NUMBERS = st.sampled_from([0, 1, 1, 1, 2, 3, 5])
FRAMES = st.one_of(
    st.builds(lambda number, fields, end: head(number or 1, fields, end=end), NUMBERS, HEADS, st.booleans()),
    st.builds(lambda number, end: head(number or 1, POST, end=end), NUMBERS, st.booleans()),
    st.builds(lambda number, flags, data: raw(0, flags, number, data), NUMBERS, st.sampled_from([0, 1, 8, 9]),
              st.sampled_from([b"", b"\x01ab", b"\x09a", b"x" * 16384])),
    st.builds(lambda number: RstStreamFrame(number or 1, 8).serialize(), NUMBERS),
    st.builds(lambda number, size: raw(8, 0, number, size.to_bytes(4)), NUMBERS,
              st.sampled_from([0, 1, 1 << 30, (1 << 31) - 1])),
    st.builds(lambda name, value: SettingsFrame(0, {name: value}).serialize(), st.integers(1, 9),
              st.sampled_from([0, 1, 2, 16384, 1 << 24, 1 << 31])),
    st.builds(lambda number: PriorityFrame(number or 1, 1, 3, False).serialize(), NUMBERS),
    st.builds(raw, st.sampled_from([*range(10), 99]), st.integers(0, 255), NUMBERS, st.binary(max_size=9)),
)  # fmt: skip


def h2_server() -> H2Connection:
    """With the limits of `Wire`, and its mercy: what is done to a stream that was reset is nobody's fault."""
    config = H2Configuration(client_side=False, header_encoding=None)
    config.normalize_inbound_headers = False  # which joins cookies before it looks at them
    wire = H2Connection(config)
    wire.local_settings = Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: LIMITS["streams"],
            SettingCodes.INITIAL_WINDOW_SIZE: LIMITS["stream_window"],
            SettingCodes.MAX_HEADER_LIST_SIZE: LIMITS["head"],
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
        },
    )
    wire.decoder.max_header_list_size = LIMITS["head"]
    wire.initiate_connection()
    wire.increment_flow_control_window(LIMITS["window"] - wire.inbound_flow_control_window)
    wire.receive_data(PREFACE + SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())
    return wire


@settings(max_examples=400, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=8))
@example([head(1, [*GET, ("host", "b")])])
@example([head(1, [*GET, ("cookie", "a"), ("cookie", "")])])
@example([head(1, [*GET[:2], GET[3], ("host", "a.example"), ("host", "a.example")])])
def test_no_less_strict_than_h2(frames: list[bytes]) -> None:
    heard = Heard(takes=False)
    heard.start()
    measure = h2_server()
    for frame in frames:
        if frame[3] == 7:
            return  # h2 takes a client's good-bye for the end; to the RFC it may go on
        refused = ""
        try:
            measure.receive_data(frame)
        except ProtocolError as error:
            refused = f"{type(error).__name__}: {error}"
        try:
            heard.wire.receive(frame)
        except WireError:
            return
        assert not refused, refused


# -- what is sent
NAMES = st.sampled_from([b":status", b"date", b"content-type", b"content-length", b"set-cookie", b"x-long", b"vary"])
VALUES = st.sampled_from([b"", b"200", b"404", b"text/html", b"accept", b"y" * 130, b"z" * 600, b"0", b"1"])
STEPS = st.lists(
    st.one_of(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.sampled_from([0, 50, 300, 4096, 65536])), max_size=12
)


@given(STEPS, st.integers(0, 200))
def test_heads_are_what_a_client_decodes(steps: list[Any], many: int) -> None:
    """While the table grows, evicts, and is made smaller and larger by the client."""
    encoder, decoder = HeaderEncoder(), Decoder()
    for number in range(many):
        fields = [(b"x-%d" % number, b"v" * (number % 50)), (b"vary", b"accept")]
        assert [tuple(one) for one in decoder.decode(encoder.encode(fields), raw=True)] == fields
    for step in steps * 2:
        if isinstance(step, int):
            encoder.resize(step)
            decoder.max_allowed_table_size = step
            continue
        assert [tuple(one) for one in decoder.decode(encoder.encode(step), raw=True)] == step
        assert encoder._size == sum(size for _field, size in encoder._entries) <= 4096
        assert len(encoder._numbers) == len(encoder._entries)


def test_what_was_sent_before_costs_a_byte() -> None:
    encoder = HeaderEncoder()
    fields = [(b":status", b"200"), (b"content-type", b"text/plain"), (b"x-own", b"value"), (b"content-length", b"2")]
    first = encoder.encode(fields)
    assert len(encoder.encode(fields)) == 3 + 4 < len(first)


def client() -> H2Connection:
    made = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    made.initiate_connection()
    return made


def talk(wire: Wire, other: H2Connection) -> list[Event]:
    """Until both have heard all."""
    events: list[Event] = []
    while data := other.data_to_send():
        wire.receive(data)
        events += other.receive_data(wire.output())
    return events + other.receive_data(wire.output())


def test_bodies_within_the_clients_windows() -> None:
    heard = Heard()
    other = client()
    other.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    other.send_headers(1, [(name.encode(), value.encode()) for name, value in GET], end_stream=True)
    talk(heard.wire, other)
    wire = heard.wire
    assert wire.send_head(1, [(b":status", b"200"), (b"x-long", b"y" * 40_000)], False)
    assert wire.room(1) == 1000
    assert wire.send_data(1, bytes(1000), False)
    assert wire.room(1) == 0
    events = talk(wire, other)
    assert [type(event) for event in events if isinstance(event, (ResponseReceived, DataReceived))] == [
        ResponseReceived, DataReceived,
    ]  # fmt: skip
    other.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 400})
    talk(wire, other)
    assert wire.room(1) == -600  # a window may be less than nothing
    other.increment_flow_control_window(700, 1)
    talk(wire, other)
    assert wire.room(1) == 100
    assert wire.send_data(1, bytes(100), True)
    assert [event for event in talk(wire, other) if isinstance(event, StreamEnded)]
    assert not wire.send_data(1, b"more", False)
    assert not wire.send_head(1, [(b":status", b"200")], False)
    assert wire.room(1) == 0


def test_windows_are_opened_for_what_was_taken_and_no_more() -> None:
    heard = Heard(takes=False)
    other = client()
    talk(heard.wire, other)
    other.send_headers(1, [(name.encode(), value.encode()) for name, value in POST])
    sent = 0
    while room := min(other.local_flow_control_window(1), 16384):
        other.send_data(1, bytes(room))
        sent += room
        talk(heard.wire, other)
    assert sent == LIMITS["stream_window"]
    heard.wire.acknowledge(1, 1000)
    talk(heard.wire, other)
    assert other.local_flow_control_window(1) == 0  # not for every few bytes
    heard.wire.acknowledge(1, 60_000)
    talk(heard.wire, other)
    assert other.local_flow_control_window(1) == 61_000
    for _ in range(20):  # much more than the connection's window
        other.send_data(1, bytes(16384))
        talk(heard.wire, other)
        heard.wire.acknowledge(1, 16384)
        talk(heard.wire, other)


def test_a_stream_that_is_ended_early() -> None:
    heard = Heard()
    other = client()
    talk(heard.wire, other)
    other.send_headers(1, [(name.encode(), value.encode()) for name, value in POST])
    talk(heard.wire, other)
    heard.wire.reset(1, Code.NO_ERROR)
    other.send_data(1, b"x" * 1000)  # was under way
    under_way = other.data_to_send()
    assert [event for event in other.receive_data(heard.wire.output()) if isinstance(event, StreamReset)]
    heard.wire.receive(under_way)
    heard.wire.receive(head(1, [("x-late", "1")]))
    assert [what[0] for what in heard.seen] == ["request", "control"]
    heard.wire.reset(1, Code.NO_ERROR)
    assert heard.wire.output() == b""


def test_continuations_of_others_are_put_together() -> None:
    heard = Heard()
    heard.start()
    block = DONE[9:]
    heard.wire.receive(HeadersFrame(1, block[:3], flags=["END_STREAM"]).serialize())
    heard.wire.receive(ContinuationFrame(1, block[3:], flags=["END_HEADERS"]).serialize())
    assert heard.seen == [("request", 1, True)]
