"""What containers see of the platform."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.images.platform import CARRIED, LIB, Platform, compile_command


def test_the_sources_are_there_once_with_bytecode_that_needs_no_check(tmp_path: Path) -> None:
    platform = Platform(Home(tmp_path))
    lib, carried = platform.binds()
    assert (lib.target, carried.target, lib.read_only) == (LIB, CARRIED, True)
    assert (lib.source / "modal/__init__.py").is_file()
    assert (lib.source / "intermodal/runner/start.py").is_file()
    assert (lib.source / "intermodal/__init__.py").is_file()
    assert not (lib.source / "intermodal/home.py").exists()
    assert (carried.source / "cloudpickle/__init__.py").is_file()
    assert Platform(Home(tmp_path)).binds() == [lib, carried]

    cached = Path(importlib.util.cache_from_source(str(lib.source / "modal/__init__.py")))
    assert int.from_bytes(cached.read_bytes()[4:8], "little") == 0b01  # by hash, unchecked
    assert platform.is_compiled(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert not platform.is_compiled("3.77")


def test_nothing_but_the_platform_and_the_standard_library_is_needed(tmp_path: Path) -> None:
    lib, carried = Platform(Home(tmp_path)).binds()
    program = f"import sys; sys.path[:0]=[{str(lib.source)!r},{str(carried.source)!r}]; import modal, cloudpickle"
    subprocess.run([sys.executable, "-I", "-S", "-c", program + "; print(modal.__file__)"], check=True, cwd="/")


def test_traces_name_the_path_in_the_container(tmp_path: Path) -> None:
    lib = Platform(Home(tmp_path)).binds()[0].source
    for cached in lib.rglob("*.pyc"):
        cached.unlink()
    subprocess.run(compile_command(sys.executable, str(lib.parent)), check=True)
    cached = Path(importlib.util.cache_from_source(str(lib / "modal/_protocol/frames.py")))
    assert f"{LIB}/modal/_protocol/frames.py".encode() in cached.read_bytes()


@pytest.mark.parametrize("alone", [True, False])
def test_earlier_versions_go_when_nothing_runs_on_them(tmp_path: Path, alone: bool) -> None:
    home = Home(tmp_path)
    earlier = home.platform / "0123456789abcdef01234567/lib"
    earlier.mkdir(parents=True)
    half = home.platform / ".new-4194305-0/lib"
    half.mkdir(parents=True)
    platform = Platform(home)
    platform.alone = alone
    assert (platform.path() / "lib/modal/__init__.py").is_file()
    assert (earlier.exists(), half.exists()) == (not alone, not alone)
    assert {path.name for path in home.platform.iterdir()} >= {platform.path().name}
