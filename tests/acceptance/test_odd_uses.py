"""Odd but legal uses of functions and classes, in one program: what the caller gets and what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = Path(__file__).with_name("programs") / "odd_uses.py"


def test_odd_uses(platform: Platform) -> None:
    ran = platform.modal("run", PROGRAM)
    assert ran.code == 0, ran.text
    unsendable = "SerializationError: the result cannot be serialized:"
    lines = [line if len(line) < 3_000_000 else f"{line[:10]}… {len(line)}" for line in ran.lines()]
    at_the_end = {"at the end", "what a handler has kept"}  # of a container, while the program goes on
    assert at_the_end <= set(lines)
    assert [line for line in lines if line not in at_the_end] == [
        "decorated [1, 1] [2, 2] 101 [3] 101",
        "names 2 3",
        "passed 8 8",
        "passed 103 (3, ['base', 'child'], ('child', 'plain', 6, 'static'))",
        "class (4, ['base', 'child'], ('child', 'plain', 8, 'static')) True",
        "class [(0, 'm'), (1, 'm')] static 8 plain",
        "told Told: because (7) None []",
        "locked Locked: it 5 []",
        "group ExceptionGroup: both (2 sub-exceptions) None ['ValueError(a)', 'Locked(b)']",
        "unreadable ValueError: text 5 []",
        "deep ValueError: the ground None []",
        f"items {unsendable} it is a generator, of which only the items can be sent. Make a list of them, or let "
        "the function yield (or say is_gen None []",
        f"coroutine {unsendable} it is a coroutine: await it first, in a function that is `async def` None []",
        f"lock {unsendable} TypeError: cannot pickle '_thread.lock' object None []",
        "bytes \ufffd\ufffd\x00.",
        "bytes None",
        "descriptor \ufffd.",
        "descriptor None",
        "large hhhh… 3000006",
        "large None",
        "\x1b[31mred\x1b[0m",
        "colour None",
        "step 0",  # a carriage return begins a new line for `splitlines`
        "step 1",
        "step 2",
        "returns None",
        "warning None",
        "logged info",
        "logging None",
        "from a child",
        "child 3",
        "children [1, 2]",
        "thread None",
        "alarm the alarm",
        "an interrupt of its own",
        "interrupt None",
        "loop (101, 102, [103], [104])",
        "input ('EOFError: EOF when reading a line', None, [])",
        "directory None",
        "where /tmp",
        "closed None",
        "where /tmp",
        "the container has ended",
        "late ExecutionError: Function 'late' was added to its app when that was running already, so there are no "
        "containers for it. Define it in global scope, or before `app.run()",
        "again InvalidError: This app is running already: `modal run` or an `app.run()` around this one has started "
        "it. Call its functions as they are, or make another modal.App.",
        "wait InvalidError: FunctionCall.get: timeout must be a number of seconds, not '1'.",
        "gather InvalidError: FunctionCall.gather takes FunctionCall objects, not list: write gather(*calls). [101]",
    ]
    assert "UserWarning: take care" in ran.err
    assert "ZeroDivisionError: division by zero" in ran.err
    assert "RuntimeError: the hook" in ran.err
    assert "runner/hooks.py" not in ran.err  # no frames of ours beside those of the user's
