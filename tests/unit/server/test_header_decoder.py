"""The decoder of heads says what the hpack library says, which remembers none."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.gateway import header_decoder
from intermodal.server.gateway.header_decoder import HeaderDecoder

NAMES = st.sampled_from([b":path", b"accept", b"x-long", b"cookie", b"x-one"])
VALUES = st.sampled_from([b"", b"/", b"/a", b"*/*", b"y" * 300, b"z" * 5000])
HEADS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), min_size=1, max_size=6)
LIMIT = 20_000  # bytes of a decoded head
SIZES = st.sampled_from([0, 64, 400, 4096])


@settings(max_examples=50)
@given(st.lists(st.one_of(HEADS, SIZES), min_size=1, max_size=6), st.integers(1, 3))
def test_any_sequence_of_heads(steps: list[list[tuple[bytes, bytes, bool]] | int], times: int) -> None:
    """Heads come again and again while the table grows, evicts, shrinks and is emptied."""
    encoder, plain, ours = Encoder(), Decoder(), HeaderDecoder(1 << 16)
    for step in steps * 3:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        for _ in range(times):
            data = encoder.encode(step, huffman=bool(times % 2))
            expected = list(plain.decode(data, raw=True))
            assert ours.decode(data) == expected
            assert ours.entries[::-1] == list(plain.header_table.dynamic_entries)


# Bytes that mean something: indices, literals of all kinds, sizes, numbers of several bytes, Huffman's code.
PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"\x82", b"\xbe", b"\xbf", b"\x80", b"\x3f\xe1\x1f", b"\x3f\xe2\x1f", b"\x20", b"\x3f\x00", b"\xff\x00"]
    ),
    st.builds(
        lambda first, name, value: first + _text(name) + _text(value),
        st.sampled_from([b"\x40", b"\0", b"\x10"]), st.binary(max_size=5), st.binary(max_size=40),
    ),
    st.builds(
        lambda first, value: first + _text(value),
        st.sampled_from([b"\x44", b"\x04", b"\x7e", b"\x0f\x2f", b"\x7f\x00"]),
        st.sampled_from([b"", b"/a", b"x" * 200, b"y" * 4040, b"z" * 4100]),
    ),
    st.sampled_from([b"\x44\x82\x60\x7f", b"\x04\x83\x60\x7f\xff", b"\x44\x84\xff\xff\xff\xff"]),
)  # fmt: skip


def _text(data: bytes) -> bytes:
    size = len(data) - 127
    return (bytes((len(data),)) if size < 0 else bytes((127, size & 127 | 128, size >> 7))) + data


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), max_size=6))
def test_any_bytes(blocks: list[bytes]) -> None:
    """What one of them refuses, both refuse, for the same reason where that matters."""
    plain, ours = Decoder(LIMIT), HeaderDecoder(LIMIT)
    for block in blocks * 2:
        try:
            expected = list(plain.decode(block, raw=True))
        except HPACKError as error:
            with pytest.raises(HPACKError) as other:
                ours.decode(block)
            assert isinstance(error, OversizedHeaderListError) == isinstance(other.value, OversizedHeaderListError)
            return
        assert ours.decode(block) == expected
        assert ours.entries[::-1] == list(plain.header_table.dynamic_entries)
        assert ours._size == sum(len(name) + len(value) + 32 for name, value in ours.entries)


@pytest.mark.parametrize("number", [b"\xff\xff\xff\xff\xff\xff\x01", b"\xff" * 50, b"\xff\x80\x80\x80\x80\x80\x80\x00"])
def test_numbers_have_an_end(number: bytes) -> None:
    with pytest.raises(HPACKError):
        HeaderDecoder(LIMIT).decode(number)


def test_it_is_used_and_bounded() -> None:
    ours, encoder = HeaderDecoder(LIMIT), Encoder()
    head = [(b":method", b"GET"), (b":path", b"/")]
    first = ours.decode(encoder.encode(head))
    assert ours.decode(encoder.encode(head)) is first
    for number in range(10 * header_decoder.MOST):
        ours.decode(b"\x04\x04/%03d" % number)  # a path that is not to be remembered by the table
    assert len(ours._heads) <= header_decoder.MOST
    ours.decode(b"\x82" * (header_decoder.FIELDS + 1))
    assert all(len(fields) <= header_decoder.FIELDS for fields in ours._heads.values())
    for number in range(2 * header_decoder.STRINGS):
        ours.decode(b"\x04\x84" + bytes((0x40 | number >> 8 & 7, number & 255, number & 127, 0x3F)))
    assert len(header_decoder._strings) <= header_decoder.STRINGS
