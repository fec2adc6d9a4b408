"""Every command is there, explains itself, and refuses what it cannot do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from modal.cli.root import root, run_command_line


def commands(command: click.Command = root, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: {' '.join(['modal', *words])} ")
    assert "--help" in text
    assert "Positional arguments" not in text


PLANNED = [
    ["launch", "jupyter", "--gpu", "any"],
    ["shell"],
    ["container", "exec", "ta-1", "--", "ls", "-l"],
]


@pytest.mark.parametrize("args", PLANNED, ids=" ".join)
def test_what_is_planned_says_so_in_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(args) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("Error: ")
    assert "is not implemented yet" in err
    assert f"modal {' '.join(args[: 2 if args[0] != 'shell' else 1])}`" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["volum"], "'volume'"),
        (["app", "lst"], "'list'"),
        (["nothing-like-it"], "Commands: run, deploy"),
        (["app", "stop"], "APP_IDENTIFIER"),
        (["app", "rollback", "x", "three"], "v3"),
        (["run", "--quite", "x.py"], "--quiet"),
        (["environment", "update", "x"], "--set-name"),
        (["secret", "create", "x"], "KEY=VALUE"),
        (["secret", "create", "x", "NOVALUE"], "'NOVALUE'"),
        (["secret", "create", "x", "A=1", "A=2"], "'A'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(args) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "Usage: modal" in err


def test_no_command_shows_help_and_fails_as_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([]) == 2
    assert "Commands:" in "".join(capsys.readouterr())


def test_help_loads_no_command_and_no_rich() -> None:
    code = (
        "import sys; from modal.cli.root import run_command_line; run_command_line(['--help']);"
        "print([m for m in sys.modules if m.startswith(('rich', 'asyncio', 'modal.cli.'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['modal.cli.command', 'modal.cli.root', 'modal.cli.failures']"


@pytest.mark.parametrize("module", ["modal", "modal.cli"])
def test_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "run", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: modal run [OPTIONS] FUNC_REF\n")


def test_a_group_alone_shows_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["volume"]) in (0, 2)  # as click's version has it
    out, err = capfd.readouterr()
    assert out.startswith("Usage: modal volume")
    assert "rename" in out
    assert err == ""
