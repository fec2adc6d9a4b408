"""A test run that is killed takes its platforms with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intermodal.worker.containers import names
from tests.acceptance.conftest import ROOT
from tests.acceptance.test_faults import wait_for_line
from tests.leaks import Traces

pytestmark = pytest.mark.acceptance

PATIENCE = 200.0
RUN = """
import time
from pathlib import Path
from tests import reaper
from tests.acceptance.conftest import new_platform

reaper.start()
with new_platform("256m") as platform:
    assert platform.intermodal("up").code == 0
    path = platform.home / "app.py"
    path.write_text('''
import modal
app = modal.App("left")
@app.function(min_containers=1)
def f():
    pass
''')
    deployed = platform.modal("deploy", path)
    assert deployed.code == 0, deployed.text
    while not list((platform.home / "containers").glob("ta-*/pid")):
        time.sleep(0.05)
    print("home", platform.home, flush=True)
    time.sleep(1000)
"""


def test_a_run_that_is_killed_leaves_nothing() -> None:
    if os.geteuid() != 0:
        pytest.skip("acceptance tests need root")
    process = subprocess.Popen(
        [sys.executable, "-c", RUN],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        home = Path(wait_for_line(process, "^home ")[-1].removeprefix("home "))
    finally:
        process.kill()
        process.communicate()
    traces = Traces(home)
    deadline = time.monotonic() + PATIENCE
    while (left := traces.now() | _named(home) | _there(home.parent)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, left


def _there(disk: Path) -> set[str]:
    """The mount point of the disk that the home is on, which goes last."""
    return {str(disk)} if disk.exists() else set()


def _named(home: Path) -> set[str]:
    """What stands for the directory by a hash of its name."""
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout.splitlines()
    interfaces = os.listdir("/sys/class/net")
    groups = [name for _place, found, _files in os.walk("/sys/fs/cgroup") for name in found]
    return {one for one in [*tables, *interfaces, *groups] if names.token(home)[:7] in one}
