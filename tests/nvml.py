"""A stand-in for NVIDIA's management library, compiled for the test that asks for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def build(directory: Path) -> Path:
    """The shared library; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stand-in for NVML needs a C compiler")
    target = directory / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", target, Path(__file__).with_suffix(".c")],
        check=True,
        capture_output=True,
    )
    return target
