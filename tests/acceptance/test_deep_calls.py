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
def wide(n: int) -> int:
    return 1 if n == 0 else sum(wide.map([n - 1] * 3))

@app.local_entrypoint()
def main():
    print(deep.remote({depth}), deep_spawned.remote({depth}), wide.remote(2))
"""


def test_a_recursion_that_needs_more_containers_than_there_is_room_for(platform: Platform, tmp_path: Path) -> None:
    slots = 4 * (os.cpu_count() or 1)
    if slots > 40:
        pytest.skip("it would need more than eighty containers here")
    depth = slots + 1
    path = tmp_path / "nested.py"
    path.write_text(textwrap.dedent(PROGRAM).replace("{depth}", str(depth)))
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    assert ran.lines() == [f"{depth} {depth} 9"]


GRAPH = """
import modal

app = modal.App()

@app.function()
def leaf(x):
    return x

@app.function()
def middle(x):
    return leaf.remote(x) + leaf.spawn(x).get()

@app.function()
def root():
    return sum(middle.map(range(3)))

def show(node):
    below = sorted(show(child) for child in node.children)
    return f"{node.function_name} {node.status.name}" + (f" [{', '.join(below)}]" if below else "")

@app.local_entrypoint()
def main():
    call = root.spawn()
    print(call.get())
    print(*map(show, call.get_call_graph()))
"""


def test_the_graph_of_nested_calls(platform: Platform, tmp_path: Path) -> None:
    """Maps and plain calls are in it, also when they are over."""
    path = tmp_path / "graph.py"
    path.write_text(textwrap.dedent(GRAPH))
    ran = platform.modal("run", path)
    assert ran.code == 0, ran.text
    middle = "middle SUCCESS [leaf SUCCESS, leaf SUCCESS]"
    assert ran.lines() == ["6", f"root SUCCESS [{middle}, {middle}, {middle}]"]
