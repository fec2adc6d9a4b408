"""The doctor really starts a container, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal import doctor
from intermodal.home import Home
from intermodal.worker.images import layer_mounts

pytestmark = pytest.mark.containers


def test_report(tmp_path: Path):
    home = tmp_path / "home"
    checks = {check.name: check for check in doctor.report(Home(home))}
    assert checks["containers"].ok, checks["containers"]
    assert "started in" in checks["containers"].detail
    assert checks["runtime crun"].ok
    assert checks["overlay mounts"].ok
    assert checks["clock"].ok
    for check in checks.values():
        assert check.detail, check
        assert check.ok or check.remedy, check
    assert list(home.iterdir()) == []


def test_it_says_how_layers_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def said() -> str:
        (check,) = [one for one in doctor.report(Home(tmp_path)) if one.name == "layers of registries"]
        assert check.ok
        return check.detail

    monkeypatch.setenv(layer_mounts.SETTING, "0")
    assert said() == "unpacked, which takes longer: INTERMODAL_MOUNT_LAYERS is 0"
    monkeypatch.delenv(layer_mounts.SETTING)
    why = layer_mounts.problem(tmp_path)
    assert said() == (f"unpacked, which takes longer: {why}" if why else "mounted as they are (docs/images.md)")
    assert list(tmp_path.iterdir()) == []


def test_a_state_directory_that_cannot_be_used_is_named(tmp_path: Path):
    place = tmp_path / "file"
    place.write_text("")
    checks = {check.name: check for check in doctor.report(Home(place))}
    assert not checks["containers"].ok
    assert "file" in checks["containers"].detail.lower()
    assert checks["containers"].remedy
