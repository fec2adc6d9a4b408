"""What every container sees of the platform, read-only: `/.intermodal/lib` and `/.intermodal/carried`.

Bytecode is kept beside the sources for each Python that images have, in a form that Python trusts
without looking at the source, because a container's own would be lost with it.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import py_compile
import shutil
import sys
from pathlib import Path

from intermodal.boots import tree_changed_since
from intermodal.home import Home
from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.stages import new_stage
from intermodal.worker.images.trees import remove_tree

LIB = "/.intermodal/lib"  # modal and intermodal.runner
CARRIED = "/.intermodal/carried"  # cloudpickle, after the image's own


class Platform:
    """One directory, named by its content, which is made when it is first needed."""

    def __init__(self, home: Home) -> None:
        self._root = home.platform
        self._path: Path | None = None
        self.alone = False  # nothing runs on what earlier versions have made here

    def path(self) -> Path:
        """The directory with `lib` and `carried`."""
        if self._path is None:
            sources = _sources()
            path = self._root / _digest(sources)
            if not path.is_dir():
                self._make(path, sources)
            if self.alone:
                for other in self._root.iterdir():
                    if other != path:
                        remove_tree(other)
            self._path = path
        return self._path

    def mend(self, since: float) -> None:
        """After a loss of power: remove what was made since then. Blocking."""
        for path in self._root.iterdir() if self._root.is_dir() else ():
            if tree_changed_since(path, since):
                remove_tree(path)

    def binds(self) -> list[Bind]:
        path = self.path()
        return [Bind(path / "lib", LIB), Bind(path / "carried", CARRIED)]

    def is_compiled(self, minor: str) -> bool:
        """Whether bytecode for Python "3.12" is there."""
        return self._marker(minor).exists()

    def mark_compiled(self, minor: str) -> None:
        self._marker(minor).touch()

    def _marker(self, minor: str) -> Path:
        return self.path() / f"compiled-{minor}"

    def _make(self, path: Path, sources: dict[str, Path]) -> None:
        temporary = new_stage(self._root)
        try:
            for name, source in sources.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                target.chmod(0o644)
            for part in ("lib", "carried"):
                compileall.compile_dir(
                    temporary / part,
                    quiet=2,
                    stripdir=str(temporary / part),
                    prependdir=LIB if part == "lib" else CARRIED,
                    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
                )
            (temporary / f"compiled-{sys.version_info[0]}.{sys.version_info[1]}").touch()
            for directory in (temporary, *(one for one in temporary.rglob("*") if one.is_dir())):
                directory.chmod(0o755)
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():  # else another process was first
                    raise
        finally:
            remove_tree(temporary)


def compile_command(python: str, directory: str) -> list[str]:
    """The command by which an image's own Python compiles the sources that it sees at `directory`.

    Traces must name the path under which containers import the sources.
    """
    program = (
        "import compileall,py_compile,sys\n"
        "mode=py_compile.PycInvalidationMode.UNCHECKED_HASH\n"
        f"for part,place in (('lib',{LIB!r}),('carried',{CARRIED!r})):\n"
        f" compileall.compile_dir({directory!r}+'/'+part,ddir=place,quiet=2,invalidation_mode=mode)\n"
    )
    return [python, "-I", "-S", "-c", program]


def _sources() -> dict[str, Path]:
    """Name in the platform's directory -> the installed file."""
    found: dict[str, Path] = {}
    for package, inside in (("modal", "lib/modal"), ("cloudpickle", "carried/cloudpickle")):
        found.update(_package(_root_of(package), inside))
    intermodal = _root_of("intermodal")
    found["lib/intermodal/__init__.py"] = intermodal / "__init__.py"
    found.update(_package(intermodal / "runner", "lib/intermodal/runner"))
    return found


def _root_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {package!r} of this installation cannot be found: install it again")
    return Path(spec.origin).parent


def _package(root: Path, inside: str) -> dict[str, Path]:
    names = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".pyi") or path.name == "py.typed")
    return {f"{inside}/{path.relative_to(root)}": path for path in names}


def _digest(sources: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted(sources.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:24]
