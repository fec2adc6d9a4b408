"""Interpreters of this machine for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from intermodal.worker.images import interpreters
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.interpreters import SETTING
from intermodal.worker.images.kinds import KINDS
from intermodal.worker.images.recipe import parse


def install(prefix: Path, version: str, abi: str = "") -> Path:
    minor = ".".join(version.split(".")[:2])
    include = prefix / f"include/python{minor}{abi}"
    for path in (include, prefix / "bin", prefix / f"lib/python{minor}/site-packages/own", prefix / "lib/tcl8.6"):
        path.mkdir(parents=True)
    (include / "patchlevel.h").write_text(f'#define PY_VERSION      "{version}"\n')
    (prefix / f"bin/python{minor}").write_text("program")
    (prefix / f"lib/libpython{minor}.so.1.0").write_text("library")
    (prefix / f"lib/python{minor}/os.py").write_text("import sys")
    return prefix


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), SETTING: f"{tmp_path}/one:{tmp_path}/many"}


def test_the_newest_of_the_first_directory_is_taken(tmp_path: Path, environ: dict[str, str]) -> None:
    install(tmp_path / "one", "3.12.1")
    install(tmp_path / "many/a", "3.12.9")
    install(tmp_path / "many/b", "3.10.2")
    install(tmp_path / "many/c", "3.10.13")
    install(tmp_path / "many/free", "3.10.99", "t")
    install(tmp_path / "many/old", "3.7.1", "m")
    install(tmp_path / "home/.pyenv/versions/3.13.0", "3.13.0")
    found = {minor: interpreters.find(minor, environ) for minor in ("3.7", "3.10", "3.12", "3.13", "3.14")}
    assert {minor: one.version for minor, one in found.items() if one and one.prefix.is_relative_to(tmp_path)} == {
        "3.10": "3.10.13",
        "3.12": "3.12.1",
        "3.13": "3.13.0",
    }
    assert found["3.7"] is None


def test_it_is_copied_without_its_packages(tmp_path: Path, environ: dict[str, str]) -> None:
    install(tmp_path / "one", "3.12.1")
    found = interpreters.find("3.12", environ)
    assert found
    interpreters.copy_into(found, tmp_path / "upper")
    local = tmp_path / "upper/usr/local"
    assert (local / "bin/python").readlink() == Path("python3.12")
    assert (local / "bin/python3").read_text() == "program"
    assert (local / "lib/libpython3.12.so.1.0").exists()
    assert (local / "lib/python3.12/os.py").exists()
    assert (local / "lib/tcl8.6").is_dir()
    assert list((local / "lib/python3.12/site-packages").iterdir()) == []


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3.7", r"3\.7 is too old: images need 3\.9"),
        ("3", "must be like '3.11'"),
        ("3.x", "must be like '3.11'"),
    ],
)
def test_a_python_that_cannot_be_had_names_the_choices(version: str, words: str) -> None:
    with pytest.raises(StepError, match=f"(?s){words}"):
        KINDS["debian_slim"].parts(parse([{"kind": "debian_slim", "python_version": version}])[0])
