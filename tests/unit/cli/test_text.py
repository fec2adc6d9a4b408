"""How wide text is, where it may be cut, what of it may reach a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal._output.text import (
    ESCAPE,
    cells,
    cut,
    encodable,
    last_state,
    only_colours,
    safe_end,
    style,
    without_escapes,
)

PIECES = st.lists(
    st.sampled_from(["a", "word ", "é", "日本", "🔨", "\x1b[31m", "\x1b[0m", "\x1b[1;38;5;200m", "·"]), max_size=30
).map("".join)


@given(PIECES, st.integers(2, 40))
def test_cut_text_fits_and_keeps_escapes_whole(text: str, width: int) -> None:
    short = cut(text, width)
    assert cells(short) <= width
    assert "\x1b" not in ESCAPE.sub("", short)
    if cells(text) <= width:
        assert short == text


def test_cut_marks_what_is_missing() -> None:
    assert cut("abcdef", 4) == "abc…"
    assert cut("日本語", 5) == "日本…"
    assert cut(style("abcdef", "red"), 4) == "\x1b[31mabc…\x1b[0m"


def test_only_colours_drops_movements_and_closes_colours() -> None:
    assert only_colours("a\x1b[2Ab\x1b[Kc\x1b]0;title\x07d") == "abcd"
    assert only_colours("\x1b[31mred\n") == "\x1b[31mred\x1b[0m\n"
    assert only_colours("\x1b[31mred\x1b[0m\n") == "\x1b[31mred\x1b[0m\n"
    assert only_colours("cut off \x1b[3") == "cut off "


@pytest.mark.parametrize(
    ("line", "seen"),
    [("plain\n", "plain\n"), (" 10%\r 50%\r100%\n", "100%\n"), ("50%\r", "50%"), ("\r\r", ""), ("a\rb\r\n", "b\n")],
)
def test_last_state_is_what_stays_on_the_line(line: str, seen: str) -> None:
    assert last_state(line) == seen


def test_an_unfinished_escape_sequence_waits() -> None:
    assert safe_end("abc") == 3
    assert safe_end("abc\x1b") == 3
    assert safe_end("abc\x1b[31") == 3
    assert safe_end("abc\x1b[31m") == 8


def test_signs_become_plain_where_the_stream_has_no_unicode() -> None:
    assert encodable("✓ Created objects. 🎉\n└── 🔨 f", "ascii") == "+ Created objects. \n`-- * f"
    assert encodable("✓ é", "latin-1") == "+ é"
    assert encodable("✓", "utf-8") == "✓"
    assert encodable("half \udcff", "utf-8") == "half ?"


def test_escapes_take_no_columns() -> None:
    assert without_escapes(style("abc", "bold", "red")) == "abc"
    assert cells(style("日本", "dim")) == 4
