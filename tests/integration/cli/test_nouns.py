"""Commands about apps, containers, secrets, environments, profiles and tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modal._protocol.messages import app, container, secret
from tests.integration.cli.conftest import Modal
from tests.integration.cli.fake_server import FakeServer


def test_app_list(modal: Modal, server: FakeServer) -> None:
    server.add_app("my-app")
    done = modal("app", "list", "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["Description"] == "my-app"
    assert row["State"] == "deployed"
    assert row["Stopped at"] is None
    table = modal("app", "list").stdout
    assert "App ID" in table
    assert row["App ID"] in table


def test_app_stop(modal: Modal, server: FakeServer) -> None:
    fake = server.add_app("my-app")
    done = modal("app", "stop", "my-app")
    assert (done.returncode, done.stderr) == (0, "")
    assert server.of(app.AppStop) == [app.AppStop(fake.info.app_id, "cli")]
    assert "already" in modal("app", "stop", fake.info.app_id).stdout


def test_unknown_names_are_one_sentence(modal: Modal) -> None:
    done = modal("app", "stop", "nothing")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Error: There is no app 'nothing'.\n")


def test_app_history(modal: Modal, server: FakeServer) -> None:
    fake = server.add_app("my-app")
    fake.versions = [
        app.AppVersion(2, 1e9, "me", "1.0.2", "", {"hash": "0123456789abcdef", "dirty": True}),
        app.AppVersion(1, 1e9, "me", "1.0.2", "first"),
    ]
    rows = json.loads(modal("app", "history", "my-app", "--json").stdout)
    assert [(row["Version"], row["Commit"], row["Tag"]) for row in rows] == [
        ("v2", "0123456*", None),
        ("v1", None, "first"),
    ]
    fake.versions = [app.AppVersion(1, 1e9, "me", "1.0.2")]
    (row,) = json.loads(modal("app", "history", "my-app", "--json").stdout)
    assert row["Commit"] is None
    assert "Tag" not in row


def test_app_logs_of_a_stopped_app(modal: Modal, server: FakeServer) -> None:
    fake = server.add_app("my-app", "stopped")
    server.print_line(fake.info.app_id, "one\ntwo\n")
    server.print_line(fake.info.app_id, "three\n", stream=2)
    done = modal("app", "logs", "my-app")
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "three\n")
    stamped = modal("app", "logs", "my-app", "--timestamps").stdout.splitlines()
    assert [line.split(" ", 2)[2] for line in stamped] == ["one", "two"]


def test_containers(modal: Modal, server: FakeServer) -> None:
    fake = server.add_app("my-app")
    info = container.ContainerInfo("ta-1", fake.info.app_id, "my-app", "f", "running", 1e9)
    server.containers.append(info)
    (row,) = json.loads(modal("container", "list", "--json").stdout)
    assert row["Container ID"] == "ta-1"
    assert row["App Name"] == "my-app"
    assert "environment: main" in modal("container", "list", "-e", "main").stdout
    assert modal("container", "stop", "ta-1").returncode == 0
    assert server.of(container.ContainerStop) == [container.ContainerStop("ta-1")]
    missing = modal("container", "stop", "ta-2")
    assert (missing.returncode, missing.stderr) == (1, "Error: There is no container 'ta-2'.\n")


def test_secrets(modal: Modal, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "values.env").write_text("# comment\nexport A='a value'\nB=2 # rest\n")
    (tmp_path / "values.json").write_text('{"C": "3"}')
    args = ("secret", "create", "s", "D=x=y", "E=-", "--from-dotenv", "values.env", "--from-json", "values.json")
    done = modal(*args, input="from stdin\n")
    assert done.returncode == 0, done.stderr
    assert server.secrets["s"] == {"A": "a value", "B": "2", "C": "3", "D": "x=y", "E": "from stdin"}
    assert "from stdin" not in done.stdout
    again = modal("secret", "create", "s", "A=1")
    assert (again.returncode, again.stderr) == (1, "Error: The secret 's' exists already.\n")
    assert modal("secret", "create", "s", "A=1", "--force").returncode == 0
    assert json.loads(modal("secret", "list", "--json").stdout)[0]["Name"] == "s"
    refused = modal("secret", "delete", "s", input="n\n")
    assert refused.returncode == 1
    assert server.of(secret.SecretDelete) == []
    assert modal("secret", "delete", "s", "--yes").returncode == 0
    assert server.secrets == {}


def test_environments(modal: Modal, server: FakeServer) -> None:
    assert modal("environment", "create", "dev").returncode == 0
    rows = json.loads(modal("environment", "list", "--json").stdout)
    assert [(row["name"], row["active"]) for row in rows] == [("main", True), ("dev", False)]
    assert modal("environment", "update", "dev", "--set-web-suffix", "").returncode == 0
    (update,) = server.of(secret.EnvironmentUpdate)
    assert (update.web_suffix, update.set_web_suffix) == ("", True)
    assert modal("environment", "delete", "dev", input="\n").returncode == 1
    assert modal("environment", "delete", "dev", "--confirm").returncode == 0
    assert server.environments == ["main"]


def test_default_environment_must_exist(modal: Modal) -> None:
    done = modal("config", "set-environment", "nowhere")
    assert (done.returncode, done.stderr) == (1, "Error: There is no environment 'nowhere' (there are: main).\n")
    assert modal("config", "set-environment", "main").returncode == 0
    assert "'environment': 'main'" in modal("config", "show").stdout


def test_tokens_and_profiles(modal: Modal, tmp_path: Path) -> None:
    done = modal("token", "set", "--token-id", "ak-1", "--token-secret", "-", input="as-1\n")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "modal.toml").read_text()
    assert "[my-workspace]" in text
    assert 'token_secret = "as-1"' in text
    modal("token", "set", "--token-id", "ak-2", "--token-secret", "as-2", "--profile", "two", "--no-activate")
    assert modal("profile", "current").stdout == "my-workspace\n"
    assert modal("profile", "activate", "two").returncode == 0
    rows = json.loads(modal("profile", "list", "--json").stdout)
    assert rows == [{"name": "my-workspace", "active": False}, {"name": "two", "active": True}]
    assert modal("profile", "activate", "three").returncode == 1
    shown = modal("config", "show").stdout
    assert "ak-2" in shown
    assert "as-2" not in shown
    assert "as-2" in modal("config", "show", "--no-redact").stdout


def test_a_wrong_token_is_not_kept(modal: Modal, tmp_path: Path) -> None:
    done = modal("token", "set", "--token-id", "ak-wrong", "--token-secret", "as-1")
    assert done.returncode == 1
    assert "The token is unknown to this server." in done.stderr
    assert not (tmp_path / "modal.toml").exists()


@pytest.mark.parametrize("command", [("token", "new"), ("setup",)])
def test_no_token_is_needed_on_ones_own_machine(modal: Modal, command: tuple[str, ...]) -> None:
    done = modal(*command)
    assert done.returncode == 0, done.stderr
    assert "No token is needed" in done.stdout


def test_a_server_that_is_not_there(modal: Modal, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import modal\n")
    done = modal("app", "list", MODAL_SERVER_URL="unix:/nowhere/server.sock")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "/nowhere/server.sock" in done.stderr
    assert "Traceback" not in done.stderr
