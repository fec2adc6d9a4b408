"""The commands that install packages."""

from __future__ import annotations

from typing import Any

import pytest

from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import HostSettings
from intermodal.worker.images.packages import Installer, install_command

UV = ["/uv", "pip", "install", "--python", "/py", "--break-system-packages", "--compile-bytecode"]


def command(host: HostSettings | None = None, **fields: Any) -> list[str]:
    requirements = "/req.txt" if "requirements" in fields else ""
    return install_command(fields, Installer("/py", "/uv"), host or HostSettings(), requirements)


def test_packages_go_to_uv() -> None:
    assert command(packages=["numpy", "torch <= 2.0"]) == [*UV, "--", "numpy", "torch <= 2.0"]
    assert command(requirements="numpy\n") == [*UV, "-r", "/req.txt"]


def test_without_uv_pip_does_it() -> None:
    got = install_command({"packages": ["numpy"], "pre": True}, Installer("/py", ""), HostSettings())
    assert got == ["/py", "-m", "pip", "install", "--pre", "numpy"]


def test_indexes_of_the_step_and_of_the_machine_are_all_asked() -> None:
    host = HostSettings(
        pip={"index-url": "https://h/s", "extra-index-url": "https://x/s https://y/s", "find-links": "/w"}
    )
    got = command(host, packages=["a"], extra_index_url="https://own/s", pre=True)
    assert got == [
        *UV,
        *("--default-index", "https://h/s", "--index", "https://own/s", "--index", "https://x/s"),
        *("--index", "https://y/s", "--find-links", "/w", "--index-strategy", "unsafe-best-match"),
        *("--prerelease", "allow", "--", "a"),
    ]
    assert "https://mine/s" in command(host, packages=["a"], index_url="https://mine/s")
    assert "https://h/s" not in command(host, packages=["a"], index_url="https://mine/s")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--no-deps --no-cache-dir", [*UV, "--no-deps", "--no-cache", "--", "a"]),
        ("--pre", [*UV, "--prerelease", "allow", "--", "a"]),
        ("--only-binary :all:", [*UV, "--only-binary", ":all:", "--", "a"]),
        ("--progress-bar off", ["/py", "-m", "pip", "install", "--progress-bar", "off", "a"]),
        ("--no-binary", ["/py", "-m", "pip", "install", "--no-binary", "a"]),
    ],
)
def test_options_go_to_whoever_takes_them(options: str, expected: list[str]) -> None:
    assert command(packages=["a"], extra_options=options) == expected


def test_requirements_with_lines_of_pip_alone_go_to_pip() -> None:
    assert command(requirements="--extra-index-url https://x/s\na\n")[0] == "/uv"
    assert command(requirements="--trusted-host x\na\n")[0] == "/py"


def test_options_that_cannot_be_split_are_explained() -> None:
    with pytest.raises(StepError, match="not a list of options"):
        command(packages=["a"], extra_options="--config 'oops")
