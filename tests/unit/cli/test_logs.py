"""Container logs become whole lines."""

from __future__ import annotations

import io
from typing import Dict, List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from modal._output.logs import LONGEST, LogLines
from modal._output.screen import Screen
from modal._protocol.messages.log import LogEntry, Stream
from tests.unit.cli.terminal import FakeTerminal


def entry(text: str, container: str = "ta-1", stream: int = Stream.STDOUT, time: float = 0.0) -> LogEntry:
    return LogEntry(time, stream, text, container_id=container)


class Plain:
    """A screen without a terminal."""

    def __init__(self, timestamps: bool = False) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self.screen = Screen(self.out, self.err, live=False)
        self.lines = LogLines(self.screen, timestamps)

    def finish(self) -> Tuple[str, str]:
        self.lines.finish()
        self.screen.close()
        return self.out.getvalue(), self.err.getvalue()


def test_streams_keep_apart_and_in_order() -> None:
    plain = Plain()
    plain.lines.feed([entry("hello 0\n"), entry("world 1\n", stream=Stream.STDERR), entry("hello 2\nhello 4\n")])
    assert plain.finish() == ("hello 0\nhello 2\nhello 4\n", "world 1\n")


def test_a_line_in_parts_is_put_together() -> None:
    plain = Plain()
    plain.lines.feed([entry("one "), entry("other container\n", "ta-2"), entry("line\nnext")])
    assert plain.out.getvalue() == "other container\none line\n"
    assert plain.finish()[0] == "other container\none line\nnext"


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1, 2]), st.text("ab é日\x1b[m", max_size=12), st.booleans()),
        max_size=40,
    )
)
def test_whatever_the_pieces_lines_stay_whole_and_in_order(pieces: List[Tuple[int, int, str, bool]]) -> None:
    plain = Plain()
    wanted: Dict[Tuple[int, int], str] = {}
    for container, stream, text, ends in pieces:
        text = f"{text}|{container}{stream}\n" if ends else text
        wanted[container, stream] = wanted.get((container, stream), "") + text
        plain.lines.feed([entry(text, f"ta-{container}", stream)])
    out, err = plain.finish()
    for (container, stream), text in wanted.items():
        marked = [line for line in (out if stream == 1 else err).split("\n") if line.endswith(f"|{container}{stream}")]
        assert marked == text.split("\n")[:-1]


def test_a_huge_line_is_not_held_back_for_ever() -> None:
    plain = Plain()
    for _ in range(5):
        plain.lines.feed([entry("x" * (LONGEST // 2))])
    assert len(plain.out.getvalue()) >= LONGEST
    plain.lines.feed([entry("other\n", "ta-2"), entry("end\n")])
    out, _err = plain.finish()
    assert out.replace("\nother\n", "") == "x" * (LONGEST // 2 * 5) + "end\n"


def test_a_huge_line_is_not_cut_inside_an_escape_sequence() -> None:
    plain = Plain()
    plain.lines.feed([entry("y" * LONGEST + "\x1b[3"), entry("other\n", "ta-2"), entry("1mred\x1b[0m\n")])
    assert "\x1b[31mred\x1b[0m\n" in plain.finish()[0]


def test_progress_bars_reach_a_pipe_as_they_are() -> None:
    plain = Plain()
    plain.lines.feed([entry("10%\r50%\r100%\n"), entry("dos\r\n")])
    assert plain.finish()[0] == "10%\r50%\r100%\ndos\r\n"


def test_timestamps_stand_before_each_line() -> None:
    plain = Plain(timestamps=True)
    plain.lines.feed([entry("one\ntwo\nthr", time=1e9), entry("ee\n", time=2e9)])
    lines = plain.finish()[0].splitlines()
    assert [line.partition(" ")[2].partition(" ")[2] for line in lines] == ["one", "two", "three"]
    assert all(line.startswith("2001-09-0") for line in lines)


def test_on_a_terminal_a_progress_bar_lives_in_the_region() -> None:
    terminal = FakeTerminal()
    screen = Screen(terminal, terminal, live=True, size=terminal.size)  # type: ignore[arg-type]
    lines = LogLines(screen)
    screen.show(lambda: [*lines.transient(), "spinner"])
    lines.feed([entry("10%\r"), entry("50%\r"), entry("from another\n", "ta-2")])
    screen.show(lambda: [*lines.transient(), "spinner"])
    assert terminal.lines == ["from another", "50%", "spinner"]
    lines.feed([entry("100%\nafter\n")])
    screen.show(None)
    assert terminal.lines == ["from another", "100%", "after"]
    lines.feed([entry("no end")])
    lines.finish()
    screen.close()
    assert terminal.lines == ["from another", "100%", "after", "no end"]


def test_cursor_movements_of_a_container_do_not_reach_the_terminal() -> None:
    terminal = FakeTerminal()
    screen = Screen(terminal, terminal, live=True, size=terminal.size)  # type: ignore[arg-type]
    lines = LogLines(screen)
    lines.feed([entry("a\x1b[5A\x1b[2Kb \x1b[32mgreen\n")])
    screen.close()
    assert terminal.lines == ["ab green"]
    assert terminal.raw.endswith("\x1b[32mgreen\x1b[0m\n")
