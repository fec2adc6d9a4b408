"""Conda environments from a channel of this machine.

No channel of others can be reached in tests: the channel is made here, with a stand-in for the package `python` that is
Debian's Python with /opt/conda as its prefix.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import rattler.index

from intermodal.worker.images import BuildFailed

from .conftest import Builder, run

pytestmark = pytest.mark.containers

BASE = {"kind": "micromamba", "python_version": "3.11"}


def package(
    channel: Path, name: str, version: str, files: dict[str, str], depends: list[str], noarch: bool = False
) -> None:
    """Add a package; a file whose content begins with `->` is a link."""
    subdir = "noarch" if noarch else "linux-64"
    about: dict[str, Any] = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": depends}
    about["subdir"] = subdir
    paths = [
        {
            "_path": path,
            "path_type": "softlink" if text.startswith("->") else "hardlink",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "size_in_bytes": len(text),
        }
        for path, text in files.items()
    ]
    more = {"info/paths.json": json.dumps({"paths_version": 1, "paths": paths})}
    if noarch:
        about["noarch"] = "python"
        more["info/link.json"] = json.dumps({"noarch": {"type": "python"}, "package_metadata_version": 1})
    more["info/index.json"] = json.dumps(about)
    place = channel / subdir
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / f"{name}-{version}-0.tar.bz2", "w:bz2") as tar:
        for path, text in {**more, **files}.items():
            info = tarfile.TarInfo(path)
            info.mode = 0o755 if path.startswith("bin/") else 0o644
            if text.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, text[2:]
            info.size = 0 if info.issym() else len(text)
            tar.addfile(info, None if info.issym() else io.BytesIO(text.encode()))


@pytest.fixture
async def channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "channels"
    forge, other = root / "conda-forge", root / "other"
    environment = "home = /usr/bin\ninclude-system-site-packages = true\n"
    files = {"bin/python3.11": "->/usr/bin/python3.11", "bin/python": "->python3.11", "pyvenv.cfg": environment}
    package(forge, "python", "3.11.2", files, [])
    package(forge, "pip", "23.0", {"site-packages/pip_of_conda.py": ""}, ["python"], noarch=True)
    package(forge, "alpha", "1.0", {"site-packages/alpha.py": "VERSION = '1.0'\n"}, ["python >=3.9"], noarch=True)
    package(forge, "alpha", "2.0", {"site-packages/alpha.py": "VERSION = '2.0'\n"}, ["python >=3.9"], noarch=True)
    package(forge, "tool", "0.1", {"bin/tool": "#!/bin/sh\necho tool\n"}, ["alpha <2"])
    package(other, "beta", "5.0", {"site-packages/beta.py": "VERSION = '5.0'\n"}, ["python", "alpha"], noarch=True)
    for channel in (forge, other):
        (channel / "noarch").mkdir(exist_ok=True)
        await rattler.index.index_fs(channel)
    monkeypatch.setenv("INTERMODAL_CONDA_CHANNELS", str(root))
    return root


def install(*packages: str, channels: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"kind": "micromamba_install", "packages": list(packages), "channels": list(channels)}


async def test_an_environment_is_made_and_extended(builder: Builder, channels: Path) -> None:
    config = await builder.build(
        install("alpha==2.0"),
        install("beta", channels=("conda-forge", "other")),
        run("python -c 'import alpha, beta, sys; print(alpha.VERSION, beta.VERSION, sys.prefix)'"),
        install("tool"),
        run("tool; python -c 'import alpha; print(alpha.VERSION)'"),
        {"kind": "pip_install", "packages": ["six"]},
        run("python -c 'import six; print(six.__file__)'"),
        base=BASE,
    )
    lines = builder.printed.splitlines()
    assert " + beta=5.0" in lines
    assert "2.0 5.0 /opt/conda" in lines
    assert "tool" in lines
    assert lines[lines.index("tool") + 1] == "1.0"  # tool needs an older one
    assert lines[-1] == "/opt/conda/lib/python3.11/site-packages/six.py"
    assert config.python == "/opt/conda/bin/python"
    assert config.python_version == "3.11.2"
    assert config.env["PATH"].startswith("/opt/conda/bin:")
    assert any(
        line.startswith("=> Step 1: RUN micromamba install -n base --yes alpha==2.0") for line in builder.started
    )


async def test_what_cannot_be_installed_says_why(
    builder: Builder, channels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step, why in (
        (install("no-such-package"), r"or the channels lack one(.|\n)*no-such-package"),
        (install("tool", "alpha==2.0"), r"cannot be installed together"),
        (install("!!"), r"not named as conda has it"),
        (install("alpha", channels=("bad channel",)), r"is no channel"),
        (install("alpha", channels=("missing",)), r"INTERMODAL_CONDA_CHANNELS names a mirror"),
    ):
        with pytest.raises(BuildFailed, match=why):
            await builder.build(step, base=BASE)
    with pytest.raises(BuildFailed, match=r"begins with Image\.micromamba"):
        await builder.build(install("alpha"))
    monkeypatch.setenv("INTERMODAL_CONDA_CHANNELS", str(channels / "nowhere"))
    with pytest.raises(BuildFailed, match=r"which is no directory"):
        await builder.build(base={"kind": "micromamba", "python_version": "3.12"})
