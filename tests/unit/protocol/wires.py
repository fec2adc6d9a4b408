"""A transport in memory, and strategies for frames and messages."""

from __future__ import annotations

import asyncio
import typing
from typing import Any

from hypothesis import strategies as st

from modal._protocol import messages
from modal._protocol.aio import Connection, Handlers
from modal._protocol.frames import PREFIX, Kind, pack
from modal._protocol.message import Message, Record, _hints
from modal._protocol.messages.wire import Hello, Welcome

messages.load_all()  # strategies know every message

HELLO = Hello("client", 1, 1)


class MemoryTransport(asyncio.Transport):
    """Keeps what is written until somebody takes it."""

    def __init__(self, protocol: asyncio.Protocol, high: int = 1 << 62) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.high = high
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol  # type: ignore[assignment]

    def write(self, data: Any) -> None:
        assert not self.aborted
        self.written += data
        if len(self.written) > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def taken(self, size: int | None = None) -> bytes:
        """The peer reads."""
        size = len(self.written) if size is None else size
        data = bytes(self.written[:size])
        del self.written[:size]
        if self.paused and len(self.written) <= self.high:
            self.paused = False
            self.protocol.resume_writing()
        return data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


def accepting(handlers: Handlers | None = None, *, greeted: bool = True) -> tuple[Connection, MemoryTransport]:
    """The accepting side of a connection whose peer is the test."""
    connection = Connection(handlers or Handlers(), accepting=True, greet=lambda _connection, _hello: Welcome(1))
    transport = MemoryTransport(connection)
    connection.connection_made(transport)
    if greeted:
        connection.data_received(pack(Kind.HELLO, HELLO.TYPE, 0, *HELLO.encode()))
        transport.taken()
    return connection, transport


def finish(connection: Connection) -> None:
    """The event loop's last call."""
    connection.connection_lost(None)


# -- strategies ----------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """What a field of this annotation may hold."""
    if hint is str:
        return st.text(max_size=30)
    if hint is int:
        return st.integers(-(1 << 63), (1 << 63) - 1)
    if hint is bool:
        return st.booleans()
    if hint is float:
        return st.floats(allow_nan=False)
    if hint is bytes:
        return st.binary(max_size=100)
    if hint is Any:
        return json_values
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return st.lists(values_of(args[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(st.text(max_size=10), values_of(args[1]), max_size=4)
    if origin is typing.Union:
        return st.none() | values_of(next(arg for arg in args if arg is not type(None)))
    assert isinstance(hint, type)
    assert issubclass(hint, Record)
    return records(hint)


def records(cls: type[Record]) -> st.SearchStrategy[Any]:
    """Records of one class with any content."""
    hints = _hints(cls)
    return st.fixed_dictionaries({name: values_of(hints[name]) for name in cls.__fields__}).map(
        lambda fields: cls(**fields)
    )


every_message = [cls for _type, cls in sorted(Message.registry.items()) if cls.__module__.startswith("modal.")]
any_message = st.sampled_from(every_message).flatmap(records)

any_frame = st.builds(
    pack,
    st.integers(Kind.FIRST, Kind.LAST),
    st.sampled_from([0, 1, 2, 3, 4, 5, 20, 21, 23, 24, 9999]),
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 0xFFFFFFFF]),
    st.binary(max_size=40)
    | st.sampled_from([b"[]", b"[1]", b'["a","b"]', b"{}", b"null", b'["client",1,1]', b"[[0],[0],[1],[],0]"]),
    st.binary(max_size=40),
)  # fmt: skip
damaged_frame = st.builds(
    lambda kind, flags, type_, stream, header, body, rest: PREFIX.pack(kind, flags, type_, stream, header, body) + rest,
    st.integers(0, 255), st.sampled_from([0, 0, 0, 1]), st.integers(0, 65535), st.integers(0, 0xFFFFFFFF),
    st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=40),
)  # fmt: skip
message_frame = st.builds(
    lambda kind, stream, message: pack(kind, message.TYPE, stream, *message.encode()),
    st.integers(Kind.FIRST, Kind.LAST),
    st.sampled_from([0, 1, 2, 3, 4, 5]),
    any_message,
)
any_bytes = st.lists(any_frame | damaged_frame | message_frame | st.binary(max_size=60), max_size=12).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn, data: st.SearchStrategy[bytes] = any_bytes) -> list[bytes]:
    """Bytes in any pieces."""
    whole = draw(data)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
