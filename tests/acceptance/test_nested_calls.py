"""Calls that are made inside containers, through the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAMS = Path(__file__).with_name("programs")


def test_large_values(platform: Platform) -> None:
    """A container shares no directory with the server: its worker moves what it passes and gets."""
    ran = platform.modal("run", PROGRAMS / "nested_large.py")
    assert ran.code == 0, ran.text
    twice, once, less = 6_000_000, 3_000_000, 2_999_999
    assert ran.lines() == [str([twice, once, less, twice, twice, twice]), str([twice, once, less])]
