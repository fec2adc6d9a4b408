"""uv's cache after parts of it were pruned: uv itself says that it is sound, and goes on with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from intermodal.server.services.cache_parts import delete, parts_of

UV = Path(sys.executable).with_name("uv")


def wheel(directory: Path, name: str) -> None:
    """The smallest package that can be installed."""
    info = f"{name}-1.0.dist-info"
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "value = 1\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.mark.skipif(not UV.exists(), reason="uv is not installed beside this Python")
def test_uv_goes_on_after_a_part_of_its_cache_went(tmp_path: Path) -> None:
    cache, wheels = tmp_path / "uv-cache", tmp_path / "wheels"
    wheel(wheels, "kept")
    wheel(wheels, "gone")

    def uv(*args: str) -> str:
        env = {**os.environ, "UV_CACHE_DIR": str(cache)}
        done = subprocess.run([str(UV), *args], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def install(target: str) -> list[str]:
        where = ["--no-index", "--offline", "--find-links", str(wheels), "--target", str(tmp_path / target)]
        uv("pip", "install", *where, "kept", "gone")
        return sorted(path.name for path in (tmp_path / target).glob("*.py"))

    assert install("first") == ["gone.py", "kept.py"]
    parts = parts_of(cache, time.time())
    assert len(parts) == 2
    [part] = [part for part in parts if list(part.paths[-1].glob("gone.py"))]
    assert len(part.paths) > 1  # what refers to it goes as well
    assert delete(part)
    assert "No unused entries" in uv("cache", "prune")
    assert len(parts_of(cache, time.time())) == 1
    assert install("second") == ["gone.py", "kept.py"]
    assert len(parts_of(cache, time.time())) == 2
