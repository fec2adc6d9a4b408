"""Lines and the live region: nothing torn, whoever writes."""

from __future__ import annotations

import io
import threading
from typing import List

import pytest

from modal._output.local import LocalStream
from modal._output.screen import ERR, OUT, Screen
from tests.unit.cli.terminal import FakeTerminal


@pytest.fixture
def terminal() -> FakeTerminal:
    return FakeTerminal(columns=40)


def live(terminal: FakeTerminal) -> Screen:
    return Screen(terminal, terminal, live=True, size=terminal.size)  # type: ignore[arg-type]


def test_region_stays_below_the_text(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["spinner", "second"])
    assert terminal.lines == ["spinner", "second"]
    screen.write(OUT, "one\ntwo\n")
    screen.show(lambda: ["spinner"])
    assert terminal.lines == ["one", "two", "spinner"]
    screen.close()
    assert terminal.lines == ["one", "two"]


def test_region_is_cut_to_the_window(terminal: FakeTerminal) -> None:
    terminal.rows = 4
    screen = live(terminal)
    screen.show(lambda: ["日" * 60, *[f"line {n}" for n in range(10)]])
    assert len(terminal.lines) == 3
    assert terminal.lines[0].endswith("…")
    screen.close()
    assert terminal.lines == []


def test_region_is_erased_after_the_window_became_narrow(terminal: FakeTerminal) -> None:
    terminal.columns = 20
    screen = live(terminal)
    screen.write(OUT, "text\n")
    screen.show(lambda: ["x" * 19])
    terminal.columns = 10  # the terminal wraps what was drawn into two rows; the cursor stays at its start
    terminal._lines[-1:] = ["x" * 10, "x" * 9]
    screen.show(lambda: ["y" * 30])
    assert terminal.lines == ["text", "y" * 8 + "…"]
    screen.close()


def test_what_others_write_to_the_terminal_is_not_erased(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["one", "two", "three"])
    terminal.write("from a subprocess\n")
    screen.write(OUT, "text\n")
    screen.close()
    assert terminal.lines == ["from a subprocess", "text"]


def test_an_open_line_belongs_to_its_owner(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["spinner"])
    screen.write(OUT, "Enter: ", owner="me")
    assert terminal.lines == ["Enter:"]
    screen.write(OUT, "log line\n", owner="other")
    screen.write(OUT, "a", owner="me")
    screen.write(OUT, "b\n", owner="me")
    screen.close()
    assert terminal.lines == ["Enter:", "log line", "ab"]


def test_stdout_and_stderr_on_one_terminal(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["spinner"])
    screen.write(ERR, "problem\n")
    screen.write(OUT, "half", owner=1)
    screen.write(ERR, "next\n", owner=2)
    screen.close()
    assert terminal.lines == ["problem", "half", "next"]


def test_streams_to_different_files_do_not_disturb_each_other() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err, live=False)
    screen.write(OUT, "half", owner=1)
    screen.write(ERR, "error\n", owner=2)
    screen.write(OUT, " line\n", owner=1)
    screen.close()
    assert (out.getvalue(), err.getvalue()) == ("half line\n", "error\n")


def test_no_line_is_torn_by_many_writers(terminal: FakeTerminal) -> None:
    terminal.columns = 200
    screen = live(terminal)
    screen.show(lambda: ["spinner line"])
    local = LocalStream(screen, OUT, terminal)

    def container(number: int) -> None:
        for line in range(50):
            screen.write(OUT if line % 2 else ERR, f"container {number} line {line} end\n", owner=number)

    def program() -> None:
        for line in range(50):
            print("program line", line, "end", file=local)

    threads = [threading.Thread(target=container, args=(n,)) for n in range(4)] + [threading.Thread(target=program)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    screen.close()
    wanted = [f"container {n} line {line} end" for n in range(4) for line in range(50)]
    wanted += [f"program line {line} end" for line in range(50)]
    assert sorted(terminal.lines) == sorted(wanted)


class _Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        raise OSError


def test_a_broken_pipe_is_told_once_and_then_ignored() -> None:
    told: List[bool] = []
    err = io.StringIO()
    screen = Screen(_Closed(), err, live=False, on_broken=lambda: told.append(True))
    screen.write(OUT, "one\n")
    screen.write(OUT, "two\n")
    screen.write(ERR, "still there\n")
    screen.close()
    assert told == [True]
    assert err.getvalue() == "still there\n"


def test_local_prints_keep_partial_lines_until_flush(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["spinner"])
    local = LocalStream(screen, OUT, terminal)
    local.write("part")
    assert terminal.lines == ["spinner"]
    local.flush()
    assert terminal.lines == ["part"]
    screen.write(OUT, "container\n", owner=1)
    local.write(" of a line\n")
    screen.close()
    assert terminal.lines == ["part", "container", " of a line"]


def test_a_pause_hides_the_region(terminal: FakeTerminal) -> None:
    screen = live(terminal)
    screen.show(lambda: ["spinner"])
    screen.pause()
    assert terminal.lines == []
    terminal.write("name? ")
    screen.write(OUT, "container\n", owner=1)
    terminal.write("Bob\n")
    screen.resume()
    screen.show(lambda: ["spinner"])
    assert terminal.lines == ["name?", "container", "Bob", "spinner"]
    screen.close()


def test_characters_that_the_stream_lacks() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    screen = Screen(out, out, live=False)
    screen.line("✓ Created objects.")
    screen.write(OUT, "half a pair: \udce9\n")
    screen.close()
    assert raw.getvalue() == b"+ Created objects.\nhalf a pair: ?\n"
