"""A signal that the main thread has missed reaches it all the same."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, select, signal, time
from intermodal.runner.inputs import CANCEL_SIGNAL
from intermodal.runner.nudges import DELAYS, Nudges

nudges, heard = Nudges(), []
assert callable(signal.getsignal(CANCEL_SIGNAL)), "a nudge would end the process"
signal.signal(CANCEL_SIGNAL, lambda *_: heard.append("nudge"))
signal.signal(signal.SIGINT, lambda *_: heard.append("interrupt"))

def all_of_them():
    while nudges.next() != float("inf"):
        time.sleep(max(0.0, nudges.next() - time.monotonic()))
        nudges.nudge()

nudges.read()
assert nudges.next() == float("inf"), "without a signal there is nothing to do"
os.kill(os.getpid(), signal.SIGINT)
assert select.select([nudges.fd], [], [], 10)[0]
nudges.read()
all_of_them()
assert heard == ["interrupt"] + ["nudge"] * len(DELAYS), heard
nudges.read()
assert nudges.next() == float("inf"), "a nudge is no reason for another"
nudges.plan()
all_of_them()
assert len(heard) == 1 + 2 * len(DELAYS), heard
"""


def test_nudges_follow_a_signal_and_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
