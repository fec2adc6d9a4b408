"""What is said of the worker that a server keeps running."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.server.services.local_worker import LocalWorker


@pytest.mark.parametrize("begun", [False, True], ids=["from before", "begun ahead"])
async def test_one_that_says_hello_before_it_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """The server listens before it has come up itself: its worker may be quicker."""
    local = LocalWorker(Home(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        if begun:
            monkeypatch.setattr(local, "_spawn", lambda: worker)
            local.begin()
        else:
            monkeypatch.setattr(local, "_locked", lambda: True)
        local.connected(worker.pid)
        local.start()
        for _ in range(3):
            await asyncio.sleep(0)
        assert local.describe() == {"state": "running", "pid": worker.pid, "failures": 0, "last_exit": ""}
        await local.close()
        worker.kill()
