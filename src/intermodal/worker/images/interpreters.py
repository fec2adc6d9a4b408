"""Python interpreters of this machine that an image can be given where Debian has none of that version."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OLDEST = 9  # the minor version of Python 3 that the runner needs at least
SETTING = "INTERMODAL_PYTHONS"  # directories with interpreters, separated by ":"

_VERSION = re.compile(r'#define\s+PY_VERSION\s+"(\d+\.\d+\.\d+[^"]*)"')
_LEFT_OUT = ("site-packages", "test", "tests", "idle_test", "__pycache__")
_LIBRARY = re.compile(r"lib(python)?[^/]*\.(so(\.[\d.]+)?|dylib)\Z")


@dataclass(frozen=True)
class Interpreter:
    """A Python installation: `prefix/bin/python3.12`, `prefix/lib/python3.12`."""

    prefix: Path
    version: str  # "3.12.1"

    @property
    def minor(self) -> str:
        return ".".join(self.version.split(".")[:2])


def directories(environ: Mapping[str, str] | None = None) -> list[Path]:
    """Where interpreters are looked for, the most important first."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or "~").expanduser()
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    found = [Path(part).expanduser() for part in environ.get(SETTING, "").split(":") if part]
    found.append(Path(environ.get("UV_PYTHON_INSTALL_DIR") or data / "uv/python"))
    found.append(Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions")
    found.append(Path("/opt/python"))
    return found


def interpreters(environ: Mapping[str, str] | None = None) -> list[Interpreter]:
    """All that this machine has, by directory and then newest first."""
    found: list[Interpreter] = []
    for root in directories(environ):
        candidates = [root]
        if root.is_dir():
            candidates += [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
        here = [one for path in candidates for one in [_interpreter(path)] if one is not None]
        found += sorted(here, key=lambda one: _numbers(one.version), reverse=True)
    return found


def find(minor: str, environ: Mapping[str, str] | None = None) -> Interpreter | None:
    """The interpreter for "3.12", None where this machine has none."""
    return next((one for one in interpreters(environ) if one.minor == minor), None)


def find_exactly(version: str) -> Interpreter | None:
    """The interpreter for "3.12.4", None where this machine has another 3.12 or none."""
    found = find(version.rpartition(".")[0])
    return found if found is not None and found.version == version else None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _interpreter(prefix: Path) -> Interpreter | None:
    for header in sorted(prefix.glob("include/python3.*/patchlevel.h")):
        minor = header.parent.name.removeprefix("python3.")
        if not minor.isdigit() or int(minor) < OLDEST:
            continue  # too old, or built in an unusual way (free-threaded, with old ABI flags)
        try:
            match = _VERSION.search(header.read_text())
        except OSError:
            continue
        if match and (prefix / "bin" / f"python{'.'.join(match[1].split('.')[:2])}").exists():
            return Interpreter(prefix, match[1])
    return None


def copy_into(interpreter: Interpreter, upper: Path) -> None:
    """Copy it to /usr/local of a layer. It finds its library by its own place; packages stay behind.

    The installation's packages are left out: they are this machine's. pip is put in afterwards.
    """
    minor = interpreter.minor
    target = upper / "usr/local"
    (target / "bin").mkdir(parents=True)
    shutil.copy2((interpreter.prefix / "bin" / f"python{minor}").resolve(), target / "bin" / f"python{minor}")
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to(f"python{minor}")
    (target / "lib").mkdir()
    for path in (interpreter.prefix / "lib").iterdir():
        if path.is_file() and _LIBRARY.match(path.name):
            shutil.copy2(path, target / "lib" / path.name, follow_symlinks=False)
    for name in (f"lib/python{minor}", f"include/python{minor}", *_tcl(interpreter)):
        shutil.copytree(interpreter.prefix / name, target / name, symlinks=True, ignore=_ignored)
    (target / f"lib/python{minor}/site-packages").mkdir(exist_ok=True)


def _tcl(interpreter: Interpreter) -> list[str]:
    library = interpreter.prefix / "lib"
    return [f"lib/{path.name}" for path in library.iterdir() if path.is_dir() and re.match(r"(tcl|tk)\d", path.name)]


def _ignored(_directory: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT or name.endswith(".a") or name == "EXTERNALLY-MANAGED"}
