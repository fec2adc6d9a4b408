"""Where settings come from, and which one wins."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from modal import config as config_module
from modal.config import Config, config, config_profiles, config_set_active_profile, store_profile
from modal.exception import InvalidError


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "modal.toml"
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(path))
    return path


def test_defaults(toml: Path) -> None:
    assert config.get("loglevel") == "WARNING"
    assert config.get("logs_timeout") == 10
    assert config.get("token_id") is None
    assert config.get("build_validation") == "error"
    assert config_profiles() == []
    with pytest.raises(KeyError):
        config.get("no_such_setting")


def test_environment_wins_over_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('[default]\ntoken_id = "ak-file"\nlogs_timeout = 3\n')
    assert config.get("token_id") == "ak-file"
    assert config.get("logs_timeout") == 3.0
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-env")
    assert config.get("token_id") == "ak-env"
    assert config.get("token_id", use_env=False) == "ak-file"
    monkeypatch.setenv("MODAL_TOKEN_ID", "")
    assert config.get("token_id") == "ak-file"


@pytest.mark.parametrize("spelling", ["0", '"0"', "false", '"false"', '"False"', '""'])
def test_false_in_the_file(toml: Path, spelling: str) -> None:
    toml.write_text(f"[default]\nforce_build = {spelling}\n")
    assert config.get("force_build") is False


@pytest.mark.parametrize(("text", "value"), [("1", True), ("true", True), ("0", False), ("False", False)])
def test_booleans_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("MODAL_TRACEBACK", text)
    assert config.get("traceback") is value


def test_profiles(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('[a]\ntoken_id = "ak-a"\n[b]\ntoken_id = "ak-b"\nactive = true\n')
    assert config_profiles() == ["a", "b"]
    assert config.get("token_id") == "ak-b"
    assert config.get("token_id", profile="a") == "ak-a"
    monkeypatch.setenv("MODAL_PROFILE", "a")
    assert config.get("token_id") == "ak-a"
    monkeypatch.setenv("MODAL_PROFILE", "")
    assert config.get("token_id") == "ak-b"
    config_set_active_profile("a")
    assert config.get("token_id") == "ak-a"
    assert config.get("token_id", profile="b") == "ak-b"
    assert stat.S_IMODE(toml.stat().st_mode) == 0o600
    with pytest.raises(InvalidError, match="no profile 'c'"):
        config_set_active_profile("c")


def test_two_active_profiles_are_an_error(toml: Path) -> None:
    toml.write_text("[a]\nactive = true\n[b]\nactive = true\n")
    with pytest.raises(InvalidError, match="2 active profiles"):
        config.get("token_id")


def test_several_profiles_need_an_active_one(toml: Path) -> None:
    toml.write_text("[a]\n[b]\n")
    with pytest.raises(InvalidError, match="none is active"):
        config.get("token_id")
    toml.write_text('[only]\ntoken_id = "x"\n')
    assert config.get("token_id") == "x"


def test_a_broken_file_is_named(toml: Path) -> None:
    toml.write_text("[a\n")
    with pytest.raises(InvalidError, match=str(toml)):
        config.get("token_id")
    toml.write_text("a = 1\n")
    with pytest.raises(InvalidError, match="section"):
        config.get("token_id")


def test_wrong_values_are_named(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_LOGS_TIMEOUT", "soon")
    with pytest.raises(InvalidError, match="MODAL_LOGS_TIMEOUT"):
        config.get("logs_timeout")
    monkeypatch.setenv("MODAL_BUILD_VALIDATION", "maybe")
    with pytest.raises(InvalidError, match="warning"):
        config.get("build_validation")


def test_what_is_no_text(toml: Path) -> None:
    toml.write_text('[default]\nenvironment = ["dev"]\ntoken_secret = ["as-hidden"]\n')
    with pytest.raises(InvalidError, match=r"environment in .*: \['dev'\] is no valid value: a string is needed"):
        config.get("environment")
    with pytest.raises(InvalidError, match="this is no valid value") as caught:
        config.get("token_secret")
    assert "as-hidden" not in str(caught.value)


def test_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none" / "modal.toml"))
    with pytest.raises(
        InvalidError, match=r"none/modal\.toml cannot be written: No such file or directory\. MODAL_CONF"
    ):
        store_profile("a", {"environment": "dev"})


def test_override_and_to_dict(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_ENVIRONMENT", "before")
    config.override_locally("environment", "dev")
    assert Config().get("environment") == "dev"
    assert config.to_dict()["environment"] == "dev"
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "as-secret")
    assert "as-secret" not in repr(config)


def test_store_profile_keeps_the_rest(toml: Path) -> None:
    toml.write_text('[a]\ntoken_id = "1"\nextra = 5\nactive = true\n')
    store_profile("b", {"token_id": "2"}, activate=True)
    store_profile("a", {"token_id": None})
    profiles = config_module.read_profiles()
    assert profiles == {"a": {"extra": 5}, "b": {"token_id": "2", "active": True}}
