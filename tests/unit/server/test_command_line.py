"""The command `intermodal` where nothing runs, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from intermodal import logfile
from intermodal.cli import running, tables
from intermodal.cli.commands import NOT_RUNNING, cli


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_every_command_explains_itself_and_its_options(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"])
    assert done.exit_code == 0
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_status_where_nothing_runs(intermodal_home: Path) -> None:
    done = CliRunner().invoke(cli, ["status"])
    assert done.exit_code == NOT_RUNNING
    assert "intermodal up" in done.output
    as_json = CliRunner().invoke(cli, ["status", "--json"])
    assert as_json.exit_code == NOT_RUNNING
    assert json.loads(as_json.output) == {"running": False, "home": str(intermodal_home)}


@pytest.mark.parametrize(
    "arguments",
    [
        ["token", "new"],
        ["token", "list"],
        ["token", "revoke", "ak-1"],
        ["proxy-token", "new"],
        ["images", "list"],
        ["images", "prune", "-y"],
    ],
)
def test_what_needs_a_server_says_so(intermodal_home: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert f"no server runs in {intermodal_home}: start it with `intermodal up`" in done.output


def test_logs_where_there_are_none(intermodal_home: Path) -> None:
    done = CliRunner().invoke(cli, ["logs"])
    assert done.exit_code == 1
    assert "has Intermodal been started?" in done.output


def test_logs_of_both(intermodal_home: Path) -> None:
    (intermodal_home / "server.log").write_text("one\ntwo\nthree\n")
    (intermodal_home / "worker.log").write_text("four\n")
    done = CliRunner().invoke(cli, ["logs", "-n", "2"])
    assert done.output == "server | two\nserver | three\nworker | four\n"
    assert CliRunner().invoke(cli, ["logs", "--worker"]).output == "four\n"


def test_a_followed_log_may_be_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "FOLLOW_STEP", 0.0)
    path = tmp_path / "server.log"
    path.write_text("old\n")
    lines = running.follow([path], 10, True)
    assert next(lines) == (path, "old")
    with path.open("a") as file:
        file.write("more\nhalf of")
    assert next(lines) == (path, "more")
    with path.open("a") as file:
        file.write(" a line\n")
    assert next(lines) == (path, "half of a line")
    path.rename(tmp_path / "server.log.1")
    path.write_text("new\n")
    assert next(lines) == (path, "new")


def test_a_full_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr(logfile, "LIMIT", 10)
    path = tmp_path / "logs" / "server.log"
    for text in (b"x" * 20, b"y" * 20, b"z" * 5):
        descriptor = logfile.open_log(path)
        os.write(descriptor, text)
        os.close(descriptor)
    assert path.read_bytes() == b"z" * 5
    assert path.with_name("server.log.1").read_bytes() == b"y" * 20


def test_that_there_are_no_containers_is_said_loudly() -> None:
    found = {"workers": [{"runtimes": ["host"]}]}
    assert "NO CONTAINERS" in running.host_warning(found)
    assert running.host_warning({"workers": [{"runtimes": ["crun", "host"]}]}) == ""


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes(number: int, text: str) -> None:
    assert tables.size(number) == text


def test_a_pipe_gets_whole_tables(capsys: pytest.CaptureFixture[str]) -> None:
    tables.table(["Image", "Note", "Used"], [["im-" + "x" * 22, "a note of many words " * 6, "2026-11-26 08:09:31"]])
    assert "a note of many words " * 5 in capsys.readouterr().out
