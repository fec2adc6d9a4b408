"""Calls from inside calls, deeper and wider than what the machine has room for at once."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = pytest.mark.acceptance

# Each container reserves a core, and four containers share one: each of these needs more.
PROGRAM = """
import modal

app = modal.App()

@app.function(cpu=1)
def deep(n: int) -> int:
    return 0 if n == 0 else 1 + deep.remote(n - 1)

@app.function(cpu=1)
def deep_spawned(n: int) -> int:
    return 0 if n == 0 else 1 + deep_spawned.spawn(n - 1).get()

@app.function(cpu=1)
async def deep_items(n: int):
    yield n
    if n:
        async for item in deep_items.remote_gen.aio(n - 1):
            yield item

@app.function(cpu=1)
def wide(n: int) -> int:
    return 1 if n == 0 else sum(wide.map([n - 1] * 3))

@app.local_entrypoint()
def main():
    print(deep.remote({depth}), deep_spawned.remote({depth}), len(list(deep_items.remote_gen({depth}))), wide.remote(2))
"""


def test_a_recursion_that_needs_more_containers_than_there_is_room_for(platform: Platform, tmp_path: Path) -> None:
    slots = 4 * (os.cpu_count() or 1)
    if slots > 40:
        pytest.skip("it would need more than eighty containers here")
    depth = slots + 4
    path = tmp_path / "nested.py"
    path.write_text(textwrap.dedent(PROGRAM).replace("{depth}", str(depth)))
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines() == [f"{depth} {depth} {depth + 1} 9"]
