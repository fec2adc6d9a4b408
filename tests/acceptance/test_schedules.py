"""Functions that run by themselves, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = """
import modal

app = modal.App("scheduled")

@app.function(schedule=modal.Period(seconds=1))
def often():
    print("often {version}", flush=True)

@app.function(schedule=modal.Period(seconds=1.5))
def fails():
    raise ValueError("nobody waits for this")

@app.local_entrypoint()
def main():
    often.remote()
"""


def stored_logs(platform: Platform, app_id: str) -> str:
    """What a stopped app has printed."""
    return platform.modal("app", "logs", app_id).text


def test_a_deployed_schedule(own_platform: Platform, tmp_path: Path) -> None:
    """It runs, says why a run failed, goes on after kill -9 of the server, follows a deployment, ends with the app."""
    platform = own_platform
    assert platform.intermodal("up").code == 0
    path = tmp_path / "scheduled.py"
    path.write_text(PROGRAM.replace("{version}", "one"))
    assert platform.modal("deploy", path).code == 0
    follower = platform.start("modal", "app", "logs", "scheduled", env={"PYTHONUNBUFFERED": "1"}, merged=True)
    assert follower.stdout is not None
    followed = ""
    while followed.count("often one") < 2 or "The scheduled run of fails failed." not in followed:
        followed += follower.stdout.readline()
        assert follower.poll() is None, followed
    os.kill(int(platform.status()["pid"]), signal.SIGKILL)
    assert platform.intermodal("up").code == 0
    path.write_text(PROGRAM.replace("{version}", "two"))
    assert platform.modal("deploy", path).code == 0
    while "often two" not in follower.stdout.readline():
        assert follower.poll() is None
    apps = json.loads(platform.modal("app", "list", "--json").out)
    (app_id,) = [app["App ID"] for app in apps if app["Description"] == "scheduled"]
    assert platform.modal("app", "stop", "scheduled").code == 0
    follower.communicate(timeout=200)
    logs = stored_logs(platform, app_id)
    assert "ValueError: nobody waits for this" in logs
    assert "The scheduled run of fails failed." in logs
    runs = logs.count("often")
    time.sleep(2.5)  # nothing can tell that something does not happen
    assert stored_logs(platform, app_id).count("often") == runs


def test_a_run_does_not_start_schedules(platform: Platform, tmp_path: Path) -> None:
    """`modal run` is no deployment: only what is called runs."""
    path = tmp_path / "scheduled.py"
    path.write_text(
        PROGRAM.replace("{version}", "once").replace("often.remote()", "import time; time.sleep(3); often.remote()")
    )
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines().count("often once") == 1
    assert "nobody waits" not in ran.text


def test_a_schedule_that_no_clock_reaches(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "never.py"
    path.write_text(PROGRAM.replace("modal.Period(seconds=1)", 'modal.Cron("0 0 30 2 *")'))
    ran = platform.modal("deploy", path)
    assert ran.code == 1
    assert "0 0 30 2 *" in ran.err
    assert "often" in ran.err
