"""The execution model: what the documentation promises of classes, calls and programs, in real containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.conftest import Platform

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PROGRAMS = Path(__file__).with_name("programs")


def test_classes_and_calls(platform: Platform) -> None:
    ran = platform.modal("run", PROGRAMS / "classes_and_calls.py")
    assert ran.code == 0, ran.text
    assert ran.lines() == [
        "typed ('t', b'x', False, 3, ['t'], 'attribute', 'own') ('é', b'\\xff', True, -1, ['é'], 'attribute', 'by')",
        "local ('t', b'x', False, 3, ['t'], 'attribute', 'here') attribute",
        "hooks (True, True) (True, True)",
        "serialized (4, 4) (5, [1, 8])",
        "constructed 5 7 1",
        "shared 1",
        "options o p",
        "map [1, 8, 81] [8, 16] 25 36",
        "order [1, 2] [1, 2]",
        "raised KeyError: 'two' [0, 1, UserCodeException(KeyError('two')), 3]",
        "each KeyError: 'two' None",
        "background None",
        "items [0, 1] [0, 1]",
        "items [0, 1] [0, 1, [9]]",
        "closed 0 1 None closed",
        "objects True from the container value",
        "twice True True True",
        "ids True True None True",
        "wait TimeoutError 3 3",
        "builtin True",
        "again 3 KeyError: 'two'",
        "async ([0, 1, 4, 32, 0, 1, None, 49, [49, 49], 64], 40425)",
    ]


def test_a_script(platform: Platform) -> None:
    """Its types are declared again in the container, because there it is a module of its own."""
    process = platform.start_python(PROGRAMS / "script.py")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    told = ("✓", "├", "└")
    assert [line for line in out.splitlines() if line and not line.startswith(told)] == [
        "before ExecutionError None",
        "running True ap- 1",
        "types Point(x=1) False False (False, False)",
        "another type Wrong on purpose",
        "after ExecutionError ap-",
        "printed 2",  # with `enable_output` alone
        "silent 3",
        "async 4",
        "thread [5]",
        "two apps 6",
        "raised ('KeyError', \"'mine'\")",
        "names InvalidError InvalidError InvalidError",
        "lookup NotFoundError",
        "detached 7",
        "deployed (8, 'ap-')",
    ], err
    assert sum(line.startswith("✓ Initialized") for line in out.splitlines()) == 1
    assert platform.modal("app", "stop", "accept-script-deployed").code == 0


NAMED = """
import dataclasses
import modal

app = modal.App("accept-named")

@dataclasses.dataclass
class Pair:
    a: int

@app.function()
def f(pair):
    return Pair(pair.a + 1), __name__

@app.local_entrypoint()
def main():
    print(*f.remote(Pair(1)))

if __name__ == "__main__":
    with app.run():
        main()
"""


@pytest.mark.parametrize(
    ("name", "module"), [("my script.py", "my script"), ("été.py", "été"), ("v1.2.py", "v1_2"), ("queue.py", "queue")]
)
def test_names_of_programs(platform: Platform, tmp_path: Path, name: str, module: str) -> None:
    """Any that a file may have, also that of a module of Python's, as far as nothing needs that."""
    program = tmp_path / name
    program.write_text(NAMED)
    ran = platform.modal("run", program)
    assert ran.lines() == [f"Pair(a=2) {module}"], ran.text
    if f"{module}.py" == name:  # else Python finds no module for the types that come back
        process = platform.start_python(program)
        out, err = process.communicate(timeout=200)
        assert out == f"Pair(a=2) {module}\n", err
