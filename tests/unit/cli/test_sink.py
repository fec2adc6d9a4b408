"""What a person sees of a run, on a terminal and in a pipe."""

from __future__ import annotations

import io
import time

import pytest

from modal import _events
from modal._output import enable_output
from modal._output.screen import Screen
from modal._output.sink import TerminalSink
from modal._output.text import without_escapes
from modal._protocol.messages.call import CallStats
from modal._protocol.messages.log import LogEntry, Stream
from tests.unit.cli.terminal import FakeTerminal


class Shown:
    """A sink on a terminal or in a pipe."""

    def __init__(self, tty: bool = False, progress: bool = True) -> None:
        self.terminal = FakeTerminal(tty=tty)
        self.err = self.terminal if tty else FakeTerminal(tty=False)
        self.screen = Screen(self.terminal, self.err, live=tty, size=self.terminal.size)  # type: ignore[arg-type]
        self.sink = TerminalSink(self.screen, progress)

    def region(self) -> list[str]:
        return [without_escapes(line) for line in self.sink.region()]

    def end(self) -> list[str]:
        self.sink.log_lines.finish()
        self.screen.close()
        return [without_escapes(line) for line in self.terminal.lines]


def whole_run(sink: TerminalSink) -> None:
    sink.app_created("ap-1", "hello", "http://localhost:7722/apps/ap-1", False)
    sink.object_creating("m", "Creating mount /tmp/hello.py...")
    sink.object_creating("f", "Creating function f...")
    sink.object_created("m", "Created mount /tmp/hello.py")
    sink.object_created("f", "Created function f.", "fu-1")
    sink.object_created("w", "Created web function serve.", "fu-2", "http://localhost/serve")
    sink.app_published("ap-1", "", 0.1)
    sink.app_running("ap-1")
    sink.stats(CallStats("ap-1", {"f": [7, 3, 10, 2]}))
    sink.logs("ap-1", [LogEntry(0.0, Stream.STDOUT, "hello 1\nhello 2\n", container_id="ta-1")])
    sink.logs("ap-1", [LogEntry(0.0, Stream.STDERR, "world\n", container_id="ta-1")])
    sink.app_stopping("ap-1")
    sink.app_stopped("ap-1", "", "")


WHOLE = [
    "✓ Initialized. View app page at http://localhost:7722/apps/ap-1.",
    "✓ Created objects.",
    "├── 🔨 Created mount /tmp/hello.py",
    "├── 🔨 Created function f.",
    "└── 🔨 Created web function serve => http://localhost/serve",
    "hello 1",
    "hello 2",
    "✓ App completed.",
]


def test_a_run_in_a_pipe() -> None:
    shown = Shown()
    whole_run(shown.sink)
    assert shown.end() == WHOLE
    assert shown.err.lines == ["world"]
    assert "\x1b" not in shown.terminal.raw


def test_a_run_on_a_terminal_ends_with_the_same_lines() -> None:
    shown = Shown(tty=True)
    whole_run(shown.sink)
    assert shown.end() == [*WHOLE[:-1], "world", WHOLE[-1]]


def test_quiet_shows_logs_alone() -> None:
    shown = Shown(progress=False)
    whole_run(shown.sink)
    assert shown.end() == ["hello 1", "hello 2"]


def test_the_region_while_objects_are_created() -> None:
    shown = Shown(tty=True)
    shown.sink.app_created("ap-1", "x", "", False)
    shown.sink.object_creating("m", "Creating mount /tmp/x.py...")
    shown.sink.object_created("f", "Created function f.")
    lines = shown.region()
    assert lines[0].endswith("Creating objects...")
    assert lines[1:] == ["├── ⋯ Creating mount /tmp/x.py...", "└── 🔨 Created function f."]
    shown.end()


def test_the_region_while_inputs_run() -> None:
    shown = Shown(tty=True)
    shown.sink.app_running("ap-1")
    shown.sink.stats(CallStats("ap-1", {"f": [997, 3, 0, 2], "idle": [0, 0, 5, 1]}, "no room for more containers"))
    shown.sink.map_progress("1", "f", 250, 1000)
    first, second = shown.region()
    assert first[2:] == "f  ━━━━━" + "─" * 15 + " 250/1000 · 3 running, 997 pending · 2 containers"
    assert second.strip() == "no room for more containers"
    shown.sink.stats(CallStats("ap-1", {"f": [0, 0, 1000, 2]}))
    shown.sink.map_progress("1", "f", 1000, 1000)
    shown.sink._maps["1"].at = time.monotonic() - 1
    assert shown.region() == []
    shown.end()


def test_many_functions_take_few_lines() -> None:
    shown = Shown(tty=True)
    shown.sink.app_running("ap-1")
    shown.sink.stats(CallStats("ap-1", {f"f{n}": [1, 1, 0, 1] for n in range(30)}))
    lines = shown.region()
    assert len(lines) == 5
    assert lines[-1].strip() == "… and 26 more functions"
    shown.end()


def build(sink: TerminalSink) -> None:
    sink.image_building("k", "")
    sink.image_step("k", 0, "=> Step 0: FROM base", "im-1")
    sink.image_log("k", "Collecting numpy\nInstall")
    sink.image_log("k", "ing\n")
    sink.image_log("k", "10%\r90%", progress=True)
    sink.image_step("k", 1, "RUN pip install numpy", "im-1")
    sink.image_built("k", "im-1", False, 2.5)


def test_a_build() -> None:
    shown = Shown()
    build(shown.sink)
    assert shown.end() == [
        "Building image im-1",
        "=> Step 0: FROM base",
        "Collecting numpy",
        "Installing",
        "=> Step 1: RUN pip install numpy",
        "Built image im-1 in 2.50s",
    ]


def test_two_builds_say_whose_line_it_is() -> None:
    shown = Shown()
    for key in ("a", "b"):
        shown.sink.image_building(key, "")
        shown.sink.image_step(key, 0, "=> Step 0: FROM base", f"im-{key}")
    shown.sink.image_log("a", "x\n")
    assert shown.end()[-1] == "im-a │ x"


def test_cached_images_are_not_worth_a_line() -> None:
    shown = Shown()
    shown.sink.image_building("k", "")
    shown.sink.image_built("k", "im-1", True, 0.0)
    assert shown.end() == []


def test_build_progress_is_in_the_region() -> None:
    shown = Shown(tty=True)
    shown.sink.image_building("k", "")
    shown.sink.image_step("k", 0, "=> Step 0: FROM base", "im-1")
    shown.sink.image_log("k", "10%\r90%", progress=True)
    assert [line[2:] for line in shown.region()] == ["Building image im-1  => Step 0: FROM base", "90%"]
    shown.end()


def test_a_deployment() -> None:
    shown = Shown()
    shown.sink.object_created("f", "Created function f.")
    shown.sink.app_deployed("ap-1", "my-app", "http://localhost/apps/my-app", 3, 0.5)
    assert shown.end() == [
        "✓ Created objects.",
        "└── 🔨 Created function f.",
        "✓ App deployed! 🎉",
        "",
        "View Deployment: http://localhost/apps/my-app",
    ]


def test_an_interrupted_app_says_so() -> None:
    shown = Shown()
    shown.sink.stops_because_of(KeyboardInterrupt())
    shown.sink.app_stopping("ap-1")
    shown.sink.app_stopped("ap-1", "", "")
    assert shown.end() == [
        "Stopping app - interrupted by Ctrl-C. Press Ctrl-C again to end it at once.",
        "✓ App stopped.",
    ]


def test_an_app_that_was_stopped_by_somebody_else() -> None:
    shown = Shown(progress=False)
    shown.sink.app_stopped("ap-1", "", "stopped from the command line")
    shown.end()
    assert shown.err.lines == ["✗ App stopped: stopped from the command line"]


def test_enable_output_installs_and_removes_the_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    before = _events.sink()
    with enable_output():
        sink = _events.sink()
        with enable_output(show_progress=False):
            assert _events.sink() is sink
        print("local ", end="")
        sink.logs("ap-1", [LogEntry(0.0, Stream.STDOUT, "remote\n", container_id="ta-1")])
        print("print")
    assert _events.sink() is before
    import sys

    assert sys.stdout is out
    assert out.getvalue() == "remote\nlocal print\n"


def test_no_output_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    before = _events.sink()
    with pytest.raises(ValueError), enable_output():
        raise ValueError
    assert _events.sink() is before


def test_in_a_pipe_a_long_wait_is_told_once() -> None:
    """Nobody sees a live region there: without a line it would look like a hang."""
    shown = Shown(tty=False)
    shown.sink.app_running("ap-1")
    wait = "f waits for gpu='H100': H100 in all, taken by other containers"
    shown.sink.stats(CallStats("ap-1", {"f": [1, 1, 0, 1]}, f"{wait}; f crash-loops (3 failures in a row)"))
    begun = shown.sink._waits_since
    shown.sink.tell_waits(begun + 1)
    assert not any("waits" in line for line in shown.err.lines)
    shown.sink.tell_waits(begun + 6)
    shown.sink.stats(CallStats("ap-1", {"f": [2, 1, 0, 1]}, f"{wait}; f crash-loops (3 failures in a row)"))
    shown.sink.tell_waits(begun + 60)
    shown.sink.stats(CallStats("ap-1", {"f": [0, 1, 0, 1]}))
    shown.sink.tell_waits(begun + 120)
    assert [line for line in shown.err.lines if line] == [wait]
    shown.end()
