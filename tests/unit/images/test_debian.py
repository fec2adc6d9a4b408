"""Where Debian's packages come from, and what can go wrong before any is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.worker.images import debian
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import HostSettings


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_without_settings_debians_own_mirrors(apt: Path) -> None:
    assert debian.sources("bookworm", {}, apt) == [
        "deb http://deb.debian.org/debian bookworm main",
        "deb http://deb.debian.org/debian bookworm-updates main",
        "deb http://deb.debian.org/debian-security bookworm-security main",
    ]
    assert debian.sources("forky", {}, apt) == ["deb http://deb.debian.org/debian forky main"]


def test_the_machines_own_mirrors_in_either_form(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://no.example/debian x main\ndeb [arch=amd64] http://a.example/debian x main\n"
    )
    (apt / "sources.list.d/security.sources").write_text("Types: deb\nURIs: https://s.example/debian-security/\n")
    assert debian.sources("trixie", {}, apt) == [
        "deb http://a.example/debian trixie main",
        "deb http://a.example/debian trixie-updates main",
        "deb https://s.example/debian-security trixie-security main",
    ]


def test_the_operators_mirror_goes_before_all(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://a.example/debian x main\n")
    mirror = {debian.MIRROR_SETTING: "http://m.example/debian"}
    assert debian.sources("bookworm", mirror, apt) == [
        "deb http://m.example/debian bookworm main",
        "deb http://m.example/debian bookworm-updates main",
    ]
    both = {**mirror, debian.SECURITY_SETTING: "http://m.example/security"}
    assert debian.sources("bookworm", both, apt)[2] == "deb http://m.example/security bookworm-security main"
    lines = {debian.MIRROR_SETTING: "deb http://x/y z main\ndeb http://x/w v main"}
    assert debian.sources("bookworm", lines, apt) == ["deb http://x/y z main", "deb http://x/w v main"]


async def test_a_machine_without_mmdebstrap_is_told_the_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StepError, match="apt-get install -y mmdebstrap"):
        await debian.build("3.11", tmp_path, HostSettings(), lambda _kind, _text: None)


def test_the_base_says_what_the_official_images_say() -> None:
    env = debian.variables("3.11.2")
    assert env["PYTHON_VERSION"] == "3.11.2"
    assert env["LANG"] == "C.UTF-8"
    assert env["PATH"].startswith("/usr/local/sbin:/usr/local/bin:")
    assert len(env["GPG_KEY"]) == 40


def test_other_certificates_make_another_base(tmp_path: Path) -> None:
    anchor = tmp_path / "ca.crt"
    anchor.write_text("one")
    plain = debian.identity("3.11", HostSettings())
    with_anchor = debian.identity("3.11", HostSettings(anchors=[anchor]))
    anchor.write_text("two")
    assert len({plain, with_anchor, debian.identity("3.11", HostSettings(anchors=[anchor]))}) == 3
