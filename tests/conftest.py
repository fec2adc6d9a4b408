"""Fixtures for all tests: a state directory of their own, and a check that nothing stays behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import reaper
from tests.leaks import Traces

pytest_plugins = ["tests.second_tries"]

# A busy machine is no failure: no example has an absolute time limit, and making them may take its time.
settings.register_profile("intermodal", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("intermodal")

# A shell that starts the tests in the background has them ignore Ctrl-C, and every program that they start, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees or changes what the developer has set up."""
    for name in list(os.environ):
        if name.startswith(("MODAL_", "INTERMODAL_")) and name != "INTERMODAL_TEST_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path_factory.getbasetemp() / "no-modal.toml"))


@pytest.fixture
def intermodal_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh INTERMODAL_HOME. Removed at the end, also when what it holds is large."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("INTERMODAL_HOME", str(home))
    yield home
    shutil.rmtree(home, ignore_errors=True)


def _why_no_containers() -> str | None:
    """Why tests marked `containers` cannot run here; None where they can."""
    if shutil.which("crun") is None:
        return "crun is not installed (scripts/setup installs it)"
    if os.geteuid() != 0:
        done = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False)
        if done.returncode:
            return "neither root nor user namespaces: " + done.stderr.decode(errors="replace").strip()
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("containers")]
    reason = _why_no_containers() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    if any(item.get_closest_marker(name) for item in session.items for name in ("containers", "acceptance")):
        reaper.start()  # before a test changes the environment or the mounts of this process


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """A failed test leaves garbage that warns. Where it does while pytest parses the source for the report, the parser
    of CPython 3.11 gives up ("AST constructor recursion depth mismatch"), and the run with it."""
    if call.excinfo is not None:
        gc.collect()


@pytest.fixture(autouse=True)
def no_traces(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that starts containers nothing of them is left on this machine."""
    if request.node.get_closest_marker("containers") is None:
        yield
        return
    base = request.getfixturevalue("tmp_path_factory").getbasetemp()
    reaper.tell("below", base)
    traces = Traces(base)
    before = traces.now()
    yield
    left = traces.after(before)
    assert not left, "left behind:\n  " + "\n  ".join(left)
