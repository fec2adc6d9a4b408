"""Web functions and tunnels of this machine, asked within containers by the addresses that programs are given."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAM = Path(__file__).with_name("programs") / "within.py"
DRIVER = """
import json, sys, modal
find = lambda name: modal.Function.from_name("within", name)
url = find("web").get_web_url()
print(json.dumps([
    find("ask").remote(),
    find("ask").remote(url),
    find("ask_without_network").remote(url),
    find("serve_by_tunnel").remote(),
]))
"""
SEEN = {
    "requests": "0 bytes at /r",
    "httpx": "3000000 bytes at /h",
    "urllib": "0 bytes at /u",
    "websocket": "HELLO",
    "program": "127.0.0.1",
}


def driven(platform: Platform, program: Path) -> str:
    process = platform.start_python(program)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_addresses_mean_the_same_within(platform: Platform, tmp_path: Path) -> None:
    ran = platform.modal("deploy", PROGRAM)
    assert ran.code == 0, ran.text
    (tmp_path / "driver.py").write_text(DRIVER)
    seen = json.loads(driven(platform, tmp_path / "driver.py"))
    assert seen[:2] == [SEEN, SEEN]
    assert "reached" not in seen[2]
    assert len(seen[2]) == 3
    assert seen[3] == ["nialp", "terces", "erehwesle"]
    # A killed server and a new one: containers go on, and their addresses hold.
    os.kill(int(platform.status()["pid"]), signal.SIGKILL)
    assert platform.intermodal("up").code == 0
    assert json.loads(driven(platform, tmp_path / "driver.py"))[0] == SEEN
    assert platform.modal("app", "stop", "within").code == 0
