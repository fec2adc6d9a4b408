"""Whose lines are whose, when inputs print at the same time."""

from __future__ import annotations

import subprocess
import sys

from modal._protocol.messages.worker import OUTPUT_MARK

PROGRAM = """
import os, sys, threading
from intermodal.runner.streams import attach_streams
from modal import _context

sys.setswitchinterval(1e-6)
printed = attach_streams()

def run(name):
    _context.set_thread_input(name)
    for number in range(LINES):
        print("line", name, number)

threads = [threading.Thread(target=run, args=(f"in-{letter}",)) for letter in "abcd"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert printed.take()
assert not printed.take()
"""
LINES = 3000


def test_each_line_is_its_inputs_own() -> None:
    """Threads that print without a pause: before each line stands whose it is, and no line is lost or torn."""
    text = PROGRAM.replace("LINES", str(LINES))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True)
    assert not done.stderr
    owner, found = "", []
    for part in done.stdout.decode().split(OUTPUT_MARK.decode()):
        owner, _end, lines = part.partition("\0")
        found += [(owner, line) for line in lines.splitlines()]
    wrong = [(owner, line) for owner, line in found if line.split()[1] != owner]
    assert not wrong, f"{len(wrong)} lines, such as {wrong[0]}"
    assert sorted(line for _owner, line in found) == sorted(
        f"line in-{letter} {number}" for letter in "abcd" for number in range(LINES)
    )
