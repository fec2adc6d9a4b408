"""A handle made by `from_name` is a name: it means what is deployed under it now, also after `modal app stop`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

CALLED = """
import modal

app = modal.App("accept-named")
limits = dict(max_containers=1, scaledown_window=60)
VERSION = 1

@app.function(**limits)
def version(i=0):
    return VERSION, i

@app.function(**limits)
def versions(n):
    for i in range(n):
        yield VERSION, i

@app.cls(**limits)
class Kept:
    number: int = modal.parameter(default=0)

    @modal.method()
    def version(self):
        return VERSION, self.number
"""

CALLER = """
import modal

app = modal.App("accept-naming")
version = modal.Function.from_name("accept-named", "version")
Kept = modal.Cls.from_name("accept-named", "Kept")
seven = Kept(number=7)

@app.function(max_containers=1, scaledown_window=600)
def ask():
    return version.remote(1), seven.version.remote(), list(version.map(range(2)))
"""

HOLDER = """
import asyncio, sys
import modal

version, versions, spawned = [
    modal.Function.from_name("accept-named", name) for name in ("version", "versions", "version")
]
mapped, streamed, many, scaled, counted = [modal.Function.from_name("accept-named", "version") for _ in range(5)]
Kept, Other = [modal.Cls.from_name("accept-named", "Kept") for _ in range(2)]
seven, wide = Kept(number=7), Kept.with_options(timeout=99)(number=8)
asked = modal.Function.from_name("accept-naming", "ask")

async def of_a_loop():
    return await looped.remote.aio(2), [one async for one in looped.map.aio([3])]

looped = modal.Function.from_name("accept-named", "version")

def all_of_it():
    print("remote", version.remote(1))
    print("spawn", spawned.spawn(2).get())
    print("map", *mapped.map(range(3)))
    print("generator", *versions.remote_gen(2))
    many.spawn_map(range(3))
    scaled.update_autoscaler(max_containers=2)
    print("runners", counted.get_current_stats().num_total_runners >= 0)
    print("method", seven.version.remote())
    print("options", wide.version.remote())
    print("method of a new one", Other(number=9).version.remote())
    print("loop", asyncio.run(of_a_loop()))
    print("container", asked.remote())

for line in sys.stdin:
    try:
        all_of_it()
    except modal.exception.NotFoundError as error:
        print("not found:", error)
    print("over", flush=True)
"""


def right(version: int) -> list[str]:
    def of(number: int) -> tuple[int, int]:
        return version, number

    return [
        f"remote {of(1)}",
        f"spawn {of(2)}",
        f"map {of(0)} {of(1)} {of(2)}",
        f"generator {of(0)} {of(1)}",
        "runners True",
        f"method {of(7)}",
        f"options {of(8)}",
        f"method of a new one {of(9)}",
        f"loop {(of(2), [of(3)])}",
        f"container {(of(1), of(7), [of(0), of(1)])}",
    ]


def test_a_program_that_holds_handles(platform: Platform, tmp_path: Path) -> None:
    called, caller, holder = (tmp_path / f"{name}.py" for name in ("called", "caller", "holder"))
    caller.write_text(CALLER)
    holder.write_text(HOLDER)

    def deploy(version: int) -> None:
        called.write_text(CALLED.replace("VERSION = 1", f"VERSION = {version}"))
        deployed = platform.modal("deploy", called)
        assert deployed.code == 0, deployed.text

    deploy(1)
    assert platform.modal("deploy", caller).code == 0
    program = platform.start_python(holder, listens=True)
    assert program.stdin is not None
    assert program.stdout is not None

    def asked() -> list[str]:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("\n")
        program.stdin.flush()
        said = []
        for line in program.stdout:
            if line == "over\n":
                return said
            said.append(line.rstrip())
        raise AssertionError(program.communicate())

    assert asked() == right(1)
    deploy(2)  # which takes over once it is warm
    assert len(asked()) == len(right(2))
    assert platform.modal("app", "stop", "accept-named").code == 0
    (refused,) = asked()
    assert refused.startswith("not found: ")
    assert "accept-named" in refused
    assert "deploy it first" in refused
    deploy(3)
    assert asked() == right(3)
    assert platform.modal("app", "stop", "accept-named").code == 0
    assert platform.modal("app", "stop", "accept-naming").code == 0
