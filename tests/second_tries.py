"""Continuous integration gives a test of real processes a second try: at most a few in a run, and never silently.

Such a test meets every scheduling that a machine can come up with, and one in three thousand that is wrong about it
once shall not throw away a run of a quarter of an hour. It counts as passed when its second try does; the run names it
("RERUN") and shows how it failed, for whoever reads the log to mend it. More of them than `MOST` are no coincidence:
the run fails. Whoever runs the tests by hand sees each failure at once, as do the unit tests everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

MOST = 3  # second tries in one run
REAL = ("containers", "acceptance")  # the markers of tests that start processes

_tried: list[tuple[str, str]] = []  # test, how it failed the first time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if os.environ.get("CI") == "true" else ():
        if any(item.get_closest_marker(name) for name in REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if str(report.outcome) == "rerun":  # which the plugin adds
        _tried.append((report.nodeid, report.longreprtext))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    if len(_tried) > MOST and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for test, failure in _tried:
        terminalreporter.write_sep("_", f"RERUN {test}: its first try")
        terminalreporter.write_line(failure)
    if len(_tried) > MOST:
        terminalreporter.write_line(f"FAILED: {len(_tried)} second tries: more than {MOST} are no accident")
