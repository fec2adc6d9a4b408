"""Functions of one name in several apps of one module; and the client's own log."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.invocation.rig import rig

MODULE = """
import modal

mine = modal.App("app")  # the name of the app in the tests
other = modal.App("other")

@mine.function()
def f():
    return "mine"

@other.function()
def f():
    return "other"

@mine.cls()
class C:
    @modal.method()
    def g(self):
        return "mine"

@other.cls()
class C:
    @modal.method()
    def g(self):
        return "other"
"""

CALLER = """
import sys
from modal._client import Client
from tests.integration.client.calls import Fn

client = Client(sys.argv[1])
print(Fn(client, "fu-1").remote())
"""


async def test_each_app_runs_its_own() -> None:
    async with rig() as it:
        it.write("several", MODULE)
        it.function("fu-1", "several", "f")
        assert await it.call("fu-1").remote.aio() == "mine"


@pytest.mark.parametrize(("level", "tells"), [("DEBUG", True), ("WARNING", False)])
async def test_the_clients_own_log(level: str, tells: bool) -> None:
    """MODAL_LOGLEVEL=DEBUG says what the server is asked; MODAL_LOG_PATTERN how that looks."""
    async with rig() as it:
        it.write("several", MODULE)
        it.function("fu-1", "several", "f")
        env = {**os.environ, "MODAL_LOGLEVEL": level, "MODAL_LOG_PATTERN": "PATTERN %(message)s"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALLER,
            it.address, env=env, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert out.decode() == "mine\n", err.decode()
        told = [line for line in err.decode().splitlines() if line.startswith("PATTERN ")]
        assert bool(told) is tells
        if tells:
            assert told[0] == f"PATTERN client of {it.address}"
            assert any(line.startswith("PATTERN Invoke: ") and line.endswith(" ms") for line in told), told
