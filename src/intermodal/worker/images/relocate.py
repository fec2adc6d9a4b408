"""Makes a copied Python independent of where it was built: its libraries come along, and are found beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from intermodal.worker.images.failures import StepError

PLACE = "lib/python-libraries"  # below the prefix: libraries of the machine that it was built on

# These belong to the image: a C library and its loader must fit each other.
_OF_THE_SYSTEM = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|util|resolv|nsl|crypt|anl))\.so(\..*)?\Z")
_NEEDED = re.compile(r"^\s*(\S+)\s+=>\s+(/\S+)", re.M)


def relocate(prefix: Path, minor: str) -> None:
    """Give the Python in `prefix` (bin, lib) what it needs besides a C library. Blocking. Raises StepError."""
    if shutil.which("patchelf") is None:
        raise StepError("patchelf, which prepares a Python for any image, is not installed: apt-get install patchelf")
    place = prefix / PLACE
    modules = sorted((prefix / f"lib/python{minor}/lib-dynload").glob("*.so"))
    binaries = [prefix / f"bin/python{minor}", *sorted((prefix / "lib").glob("libpython*.so*"))]
    found: dict[str, Path] = {}
    for path in [*binaries, *modules]:
        if not path.is_symlink():
            found.update(_needed(path))
    for name, source in found.items():
        place.mkdir(exist_ok=True)
        shutil.copyfile(source, place / name)
        (place / name).chmod(0o644)
        _set_path(place / name, "$ORIGIN")
    for path in binaries:
        if not path.is_symlink() and _is_dynamic(path):
            up = "$ORIGIN/../lib" if path.parent.name == "bin" else "$ORIGIN"
            _set_path(path, f"{up}:{up}/{Path(PLACE).name}")
    for path in modules:
        if found:
            _set_path(path, f"$ORIGIN/../../{Path(PLACE).name}:$ORIGIN/../..")


def _needed(path: Path) -> dict[str, Path]:
    """The libraries of this machine that a program or library loads, and those that these load."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False, timeout=60)
    return {
        name: Path(source)
        for name, source in _NEEDED.findall(done.stdout)
        if not _OF_THE_SYSTEM.match(name) and not name.startswith("libpython")
    }


def _is_dynamic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _set_path(path: Path, value: str) -> None:
    words = ["patchelf", "--force-rpath", "--set-rpath", value, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise StepError(f"patchelf could not prepare {path.name}: {done.stderr.strip()[:300]}")
