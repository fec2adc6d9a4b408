"""Children, threads and event loops that use one client."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAMS = Path(__file__).with_name("programs")


def test_children_threads_and_loops(platform: Platform) -> None:
    """A child that was forked can call, in a container a spawned one too; what it returns is no result, and the
    app goes on when it ends."""
    ran = platform.modal("run", PROGRAMS / "processes.py")
    assert ran.code == 0, ran.text
    assert ran.lines()[-4:] == [
        "inside [4, ('9', 0), ('', 1), ('', 7), [16, 25], [16, 25], 'False\\n', 64]",
        "inside a loop [('child', 0), 81]",
        "outside [('9', 5), ('9', 5), [16, 25], True, 81]",
        "all at once",
    ]
    assert "ValueError: in the child" in ran.text
