"""Documented example programs whose images take gigabytes: they deploy, with an index of empty packages for PyPI.

What is installed is what the programs name, by the real installer in real builds; only the packages have nothing
in them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from intermodal.image_builder import DEFAULT
from intermodal.worker.images import interpreters
from tests.acceptance.conftest import Platform, ProgramFinder

pytestmark = [pytest.mark.acceptance, pytest.mark.containers]

PACKAGES = {
    "pydantic": "2.9.1", "torch": "2.1.2 2.4.1 2.5.1", "tensorboard": "2.17.1", "numpy": "1.26.4",
    "fastapi": "0.115.4", "starlette": "0.41.2", "gradio": "4.44.1", "lightning": "2.4.0", "torchvision": "0.19.0",
    "transformers": "4.47.1", "hf-transfer": "0.1.8", "huggingface-hub": "0.27.0", "librosa": "0.10.2",
    "soundfile": "0.12.1", "accelerate": "1.2.1", "datasets": "3.2.0",
}  # fmt: skip


def wheel(name: str, version: str) -> bytes:
    """A package without anything in it."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    extra = "Provides-Extra: standard\n" if name == "fastapi" else ""
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{extra}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return packed.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> str:
    """The address of an index that lies in a directory."""
    for name, versions in PACKAGES.items():
        directory = tmp_path / "simple" / name
        directory.mkdir(parents=True)
        links = ""
        for version in versions.split():
            file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
            (directory / file).write_bytes(wheel(name, version))
            links += f'<a href="{file}">{file}</a>\n'
        (directory / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return (tmp_path / "simple").as_uri()


def test_deploy(own_platform: Platform, program: ProgramFinder, index: str) -> None:
    """They deploy, and so do their images."""
    pytest.importorskip("pydantic")  # one of them needs it on the launching machine
    names = ["hp_sweep_gpt", "batched_whisper", "long-training"]
    for variable in [name for name in own_platform.env if name.startswith(("PIP_", "UV_"))]:
        del own_platform.env[variable]
    own_platform.env.update(PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL=index)
    for folder in ("src", "assets"):  # which one of them uploads
        (program.directory / folder).mkdir()
        (program.directory / folder / "note.txt").write_text("here")
    for name in names:
        if name == "long-training":  # another Python
            if interpreters.find("3.12") is None:
                continue
            bare = own_platform.intermodal("images", "builder", f"{DEFAULT}-bare")  # its packages are in no index here
            assert bare.code == 0, bare.text
        ran = own_platform.modal("deploy", program(f"examples/{name}"))
        assert ran.code == 0, ran.text
        assert "App deployed" in ran.text
