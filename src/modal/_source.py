"""Which of the program's own source goes into a function's containers, and how they import it.

A function in a package brings the top-level package, `.py` files only; one in a script or single module
brings that file. Both land below /root. Never more than that: other modules are added with
`Image.add_local_python_source`.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Iterator, NamedTuple, Optional

from modal._mounts import SOURCE_DIR, FileSet, Found, walk
from modal.exception import InvalidError
from modal.file_pattern_matcher import NON_PYTHON_FILES


class Source(NamedTuple):
    """Where a container finds a function: the fields of a FunctionSpec, and the files that this needs."""

    kind: str  # "file", "package" or "serialized"
    module: str
    files: Optional[FileSet]


class PackageSource(FileSet):
    """A top-level package's `.py` files."""

    def __init__(self, name: str, directories: tuple[str, ...]) -> None:
        self.name = name
        self.directories = directories
        self.key = ("package", name, directories)

    def find(self) -> Iterator[Found]:
        for directory in self.directories:
            yield from walk(directory, f"{SOURCE_DIR}/{self.name}", NON_PYTHON_FILES, python=True)

    @property
    def description(self) -> str:
        return self.directories[0] if self.directories else self.name

    def roots(self) -> list[str]:
        return list(self.directories)


class ScriptSource(FileSet):
    """One file, as /root/NAME.py."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.key = ("script", name, path)

    def find(self) -> Iterator[Found]:
        if not os.path.isfile(self.path):
            raise InvalidError(f"The source file {self.path} is gone.")
        yield Found(f"{SOURCE_DIR}/{self.name}.py", self.path)

    @property
    def description(self) -> str:
        return self.path

    def roots(self) -> list[str]:
        return [self.path]


def is_interactive_module(module: str) -> bool:
    """Whether code of this module has no file that a container could import: a REPL or a notebook."""
    loaded = sys.modules.get(module)
    return module == "__main__" and not getattr(loaded, "__file__", None)


def source_of(module: str) -> Source:
    """The source of a module that is loaded in this process. Raises InvalidError where it has no file."""
    loaded = sys.modules.get(module)
    if loaded is None:
        raise InvalidError(
            f"The module {module!r} is not loaded under its own name, so containers could not import it. "
            "Define the function in an ordinary module or use serialized=True."
        )
    name = module
    spec: Any = getattr(loaded, "__spec__", None)
    if module == "__main__" and spec is not None:  # python -m
        name = spec.name[: -len(".__main__")] + ".__main__" if spec.name.endswith(".__main__") else spec.name
    package = getattr(loaded, "__package__", None) or ""
    if package and name != "__main__":
        return _of_package(name)
    path = getattr(loaded, "__file__", None)
    if not path:
        raise InvalidError(
            f"The module {module!r} has no file, so containers could not import it. Use serialized=True."
        )
    path = os.path.abspath(path)
    stem, suffix = os.path.splitext(os.path.basename(path))
    if suffix != ".py":
        raise InvalidError(f"{path}: only functions in .py files can be sent. Use serialized=True.")
    name = stem.replace(".", "_")  # as `modal run` imports it: a dot would make it a part of a package
    return Source("file", name, ScriptSource(name, path))


def _of_package(name: str) -> Source:
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    directories = tuple(os.path.abspath(path) for path in getattr(loaded, "__path__", None) or ())
    if not directories:
        raise InvalidError(f"The package {top!r} of the module {name!r} has no directory here. Use serialized=True.")
    return Source("package", name, PackageSource(top, directories))
