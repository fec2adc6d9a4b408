"""A version that this machine lacks is fetched by uv, from where the operator says, or named in a clear error."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest

from intermodal.worker.images import interpreters, standalone
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds import add_python
from intermodal.worker.images.kinds.kind import Instruction


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without interpreters for images."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_DATA_HOME", "PYENV_ROOT", "UV_PYTHON_DOWNLOADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


def archive(tmp_path: Path, version: str) -> Path:
    """What looks like a standalone build."""
    minor = version.rpartition(".")[0]
    tree = tmp_path / "build/python"
    files = {f"bin/python{minor}": "#!/bin/sh\n", f"lib/python{minor}/os.py": ""}
    files[f"include/python{minor}/patchlevel.h"] = f'#define PY_VERSION "{version}"\n'
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    (tree / "bin/python3").symlink_to(f"python{minor}")
    path = tmp_path / f"cpython-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tree, "python")
    return path


async def test_uv_fetches_it_from_where_the_operator_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path, "3.12.7")
    entry = {
        "name": "cpython",
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 12,
        "patch": 7,
        "prerelease": "",
        "arch": {"family": "x86_64", "variant": None},
        "variant": None,
        "build": "20240101",
        "url": path.as_uri(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (tmp_path / "list.json").write_text(json.dumps({"cpython-3.12.7-linux-x86_64-gnu": entry}))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "list.json"))
    said: list[str] = []
    await standalone.ensure("3.12", lambda _kind, text: said.append(text))
    found = interpreters.find("3.12")
    assert found is not None
    assert found.version == "3.12.7"
    assert said == ["fetching a standalone build of Python 3.12\n"]
    await standalone.ensure("3.12", lambda _kind, text: said.append(text))
    assert len(said) == 1


async def test_what_cannot_be_had_names_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list.json").write_text("{}")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "list.json"))
    with pytest.raises(StepError) as caught:
        await standalone.ensure("3.77", lambda _kind, _text: None, ("3.11", "3.9"))
    for words in ("there is no Python 3.77", "can put into images: 3.9, 3.11", "uv python install 3.77", "MIRROR"):
        assert words in caught.value.reason
    assert interpreters.SETTING in caught.value.reason
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    with pytest.raises(StepError, match="UV_PYTHON_DOWNLOADS forbids to fetch one"):
        await standalone.ensure("3.12", lambda _kind, _text: None)


async def test_an_image_is_told_of_the_debian_that_has_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setattr(standalone, "find", lambda _minor: None)
    (kind,) = [one for one in add_python.KINDS if one.name == "add_python"]
    for minor, told in (("3.14", True), ("3.12", False)):
        instruction = Instruction(0, "add_python", "", {"version": minor})
        with pytest.raises(StepError) as caught:
            await kind.prepare(cast("Any", None), instruction, lambda _kind, _text: None)
        assert ('debian_slim("3.14")' in caught.value.reason) == told
