"""Corner cases of functions and calls, in one program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAMS = Path(__file__).with_name("programs")


def test_corner_cases(platform: Platform) -> None:
    ran = platform.modal("run", PROGRAMS / "corners.py")
    assert ran.code == 0, ran.text
    wrong = "Inputs must come from iterators, one for each parameter of the function; 3 is none."
    assert ran.lines() == [
        "restricted [] 9",
        "blocked [] 4 [1, 4] [1] [0, 1, 2]",
        "ends ExecutionError: KeyboardInterrupt: by hand ExecutionError: SystemExit: 3",
        "group [\"ValueError('a')\"]",
        "group [\"KeyError('b')\"]",
        "map ['a', UserCodeException(ExecutionError('SystemExit: 3')), "
        "UserCodeException(ExecutionError('KeyboardInterrupt: by hand'))]",
        "endless [0, 1, 4, 9, 16]",
        "endless 5",
        "zip [1, 4, 9] RuntimeError: the iterator",
        f"bad InvalidError: {wrong} RuntimeError: the iterator",
        "told ['Warning: the results of a call to Function.map were not consumed']",
    ]
    assert "crash-loops" not in ran.text


EXITS = """
import modal

app = modal.App("accept-exits")

@app.cls()
class Model:
    @modal.method()
    def f(self):
        return 1

    @modal.exit()
    async def save(self):
        async with modal.Dict.ephemeral() as kept:
            await kept.put.aio("state", 7)
            print("saved", await kept.get.aio("state"))

@app.local_entrypoint()
def main():
    assert Model().f.remote() == 1
"""


def test_exit_hooks_may_begin_to_use_the_api(platform: Platform, tmp_path: Path) -> None:
    """The app is being stopped then; nothing in the container has talked to the server before."""
    program = tmp_path / "exits.py"
    program.write_text(EXITS)
    ran = platform.modal("run", program)
    assert ran.code == 0, ran.text
    assert "saved 7" in ran.out, ran.text


def test_containers_are_listed_with_their_environment(platform: Platform) -> None:
    """Also where nobody has named one."""
    listed = platform.modal("container", "list")
    assert "Active Containers in environment: main" in " ".join(listed.out.split()), listed.text
