"""Frames: any chunking gives the same frames; no bytes crash the buffer or make it grow beyond its bounds."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal._protocol.errors import ProtocolError
from modal._protocol.frames import (
    MAX_BODY,
    MAX_GREETING,
    MAX_HEADER,
    PREFIX,
    PREFIX_SIZE,
    Frame,
    FrameBuffer,
    Kind,
    pack,
    pack_head,
)
from tests.unit.protocol.wires import chunked

frames = st.builds(
    Frame,
    st.integers(Kind.FIRST, Kind.LAST),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=50),
    st.binary(max_size=50),
)


@given(st.lists(frames, max_size=10), st.data())
def test_any_chunking_gives_the_same_frames(wanted: list[Frame], data: st.DataObject) -> None:
    whole = b"".join(pack(*frame) for frame in wanted)
    buffer = FrameBuffer()
    got: list[Frame] = []
    for chunk in data.draw(chunked(st.just(whole))):
        got += buffer.feed(chunk)
    assert got == wanted
    assert buffer.empty


@given(chunked())
def test_no_bytes_crash_or_bloat(chunks: list[bytes]) -> None:
    buffer = FrameBuffer()
    fed = 0
    try:
        for chunk in chunks:
            buffer.feed(chunk)
            fed += len(chunk)
            assert len(buffer._rest) <= fed
    except ProtocolError:
        pass


def test_byte_by_byte_costs_no_more_than_the_bytes() -> None:
    frame = pack(Kind.ITEM, 1, 1, b"", b"x" * 100_000)
    buffer = FrameBuffer()
    for at in range(len(frame) - 1):
        assert not buffer.feed(frame[at : at + 1])
    assert sys.getsizeof(buffer._rest) < 2 * len(frame)
    assert buffer.feed(frame[-1:]) == [Frame(Kind.ITEM, 1, 1, b"", b"x" * 100_000)]


@pytest.mark.parametrize("header_size, body_size", [(MAX_HEADER + 1, 0), (0, MAX_BODY + 1), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_length_is_refused_before_anything_is_kept_for_it(header_size: int, body_size: int) -> None:
    prefix = PREFIX.pack(Kind.ITEM, 0, 1, 1, header_size, body_size)
    for cut in (len(prefix), 5):
        buffer = FrameBuffer()
        with pytest.raises(ProtocolError, match="limit"):
            buffer.feed(prefix[:cut])
            buffer.feed(prefix[cut:])


@pytest.mark.parametrize("kind", [0, Kind.LAST + 1, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(ProtocolError, match="kind"):
        FrameBuffer().feed(PREFIX.pack(kind, 0, 1, 1, 0, 0))


def test_flags_are_refused() -> None:
    with pytest.raises(ProtocolError, match="flags"):
        FrameBuffer().feed(PREFIX.pack(Kind.ITEM, 1, 1, 1, 0, 0))


def test_a_stranger_may_send_little() -> None:
    large = pack(Kind.HELLO, 1, 0, b"", b"x" * (MAX_GREETING + 1))
    with pytest.raises(ProtocolError, match="limit"):
        FrameBuffer(greeting=True).feed(large)
    buffer = FrameBuffer(greeting=True)
    buffer.greeted()
    assert len(buffer.feed(large)) == 1


def test_the_largest_frame_passes() -> None:
    header, body = b"h" * MAX_HEADER, b"b" * MAX_BODY
    whole = pack(Kind.ITEM, 7, 9, header, body)
    buffer = FrameBuffer()
    got = [frame for at in range(0, len(whole), 1 << 18) for frame in buffer.feed(whole[at : at + (1 << 18)])]
    assert got == [Frame(Kind.ITEM, 7, 9, header, body)]


@pytest.mark.parametrize("header, body", [(b"h" * (MAX_HEADER + 1), b""), (b"", b"b" * (MAX_BODY + 1))])
def test_a_frame_that_is_too_large_is_not_made(header: bytes, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="larger than a frame"):
        pack(Kind.ITEM, 1, 1, header, body)
    with pytest.raises(ProtocolError, match="larger than a frame"):
        pack_head(Kind.ITEM, 1, 1, header, len(body))


def test_wanted_says_what_is_missing() -> None:
    buffer = FrameBuffer()
    assert buffer.wanted == PREFIX_SIZE
    buffer.feed(pack(Kind.ITEM, 1, 1, b"", b"x" * 1000)[:100])
    assert buffer.wanted == PREFIX_SIZE + 1000 - 100
