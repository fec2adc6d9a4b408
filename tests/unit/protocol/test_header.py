"""The text of headers: what is written by hand is what the JSON encoder would write."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modal._protocol.header import dump, dump_float, dump_sizes


@given(st.floats() | st.integers(-(1 << 63), 1 << 63))
def test_numbers(value: float) -> None:
    assert dump_float(value) == dump(value + 0.0)


@given(st.lists(st.integers(0, 1 << 63)))
def test_sizes(values: list[int]) -> None:
    assert dump_sizes(values) == dump(values)
