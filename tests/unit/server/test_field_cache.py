"""A decoder that remembers heads says what one says that remembers nothing."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from intermodal.server.gateway import field_cache
from intermodal.server.gateway.field_cache import CachingDecoder

NAMES = st.sampled_from([b":path", b"accept", b"x-long", b"cookie", b"x-one"])
VALUES = st.sampled_from([b"", b"/", b"/a", b"*/*", b"y" * 300, b"z" * 5000])
HEADS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), min_size=1, max_size=6)
SIZES = st.sampled_from([0, 64, 400, 4096])


@settings(max_examples=50)
@given(st.lists(st.one_of(HEADS, SIZES), min_size=1, max_size=6), st.integers(1, 3))
def test_any_sequence_of_heads(steps: list[list[tuple[bytes, bytes, bool]] | int], times: int) -> None:
    """Heads come again and again while the table grows, evicts, shrinks and is emptied."""
    encoder, plain, caching = Encoder(), Decoder(), CachingDecoder()
    for step in steps * 3:
        if isinstance(step, int):
            encoder.header_table_size = step
            continue
        for _ in range(times):
            data = encoder.encode(step, huffman=bool(times % 2))
            expected = list(plain.decode(data, raw=True))
            assert list(caching.decode(data, raw=True)) == expected
            assert caching.header_table.dynamic_entries == plain.header_table.dynamic_entries


@given(st.lists(st.binary(max_size=12), max_size=8))
def test_any_bytes(blocks: list[bytes]) -> None:
    plain, caching = Decoder(), CachingDecoder()
    for block in blocks * 2:
        try:
            expected = list(plain.decode(block, raw=True))
        except HPACKError as error:
            with pytest.raises(type(error)):
                caching.decode(block, raw=True)
            return
        assert list(caching.decode(block, raw=True)) == expected


def test_it_is_used_and_bounded() -> None:
    caching, encoder = CachingDecoder(), Encoder()
    head = [(b":method", b"GET"), (b":path", b"/")]
    first = caching.decode(encoder.encode(head), raw=True)
    assert caching.decode(encoder.encode(head), raw=True) is first
    for number in range(10 * field_cache.MOST):
        caching.decode(b"\x04\x04/%03d" % number, raw=True)  # a path that is not to be remembered by the table
    assert len(caching._heads) <= field_cache.MOST
    caching.decode(b"\x82" * (field_cache.LONGEST + 1), raw=True)
    caching.decode(b"\x82" * (field_cache.FIELDS + 1), raw=True)
    assert all(len(fields) <= field_cache.FIELDS for fields in caching._heads.values())
