"""The user's program: what `modal run` and `modal deploy` are pointed at, imported as the containers import it."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from modal import App

_file = ""  # the program, once its import has begun


class Reference(NamedTuple):
    """`file_or_module::object`, taken apart."""

    where: str  # a path, or a dotted name with `is_module`
    name: str  # what follows "::", "" where nothing does
    is_module: bool

    def __str__(self) -> str:
        return f"{'-m ' if self.is_module else ''}{self.where}{'::' + self.name if self.name else ''}"


class ProgramError(Exception):
    """The program could not be imported; `__cause__` is what it raised."""

    def __init__(self, reference: Reference, hint: str = "") -> None:
        super().__init__(f"{reference.where} could not be imported")
        self.hint = hint


def parse_reference(text: str, use_module: bool) -> Reference:
    """Raises click.UsageError where the text cannot be a reference."""
    where, separator, name = text.partition("::")
    if separator and not name:
        raise click.UsageError(f"{text!r}: a function is missing after '::'.")
    if not where:
        raise click.UsageError(f"{text!r}: a file or module is missing before '::'.")
    if use_module:
        if where.endswith(".py") or os.sep in where:
            dotted = os.path.splitext(where)[0].strip("./").replace(os.sep, ".")
            raise click.UsageError(f"{where!r} is a path, but -m takes a module: `-m {dotted}`, or leave -m out.")
        return Reference(where, name, True)
    if os.path.exists(where) or where.endswith(".py") or os.sep in where:
        return Reference(where, name, False)
    if os.path.exists(where + ".py") and "." not in where:
        raise click.UsageError(f"No such file: {where!r}. Did you mean {where + '.py'!r}?")
    if all(part.isidentifier() for part in where.split(".")) and _is_importable(where):
        click.echo(f"Warning: use `-m {text}`; in a later version a module has to be asked for with -m.", err=True)
        return Reference(where, name, True)
    raise click.UsageError(f"No such file: {where!r}. (A module needs -m: `-m package.module`.)")


def _is_importable(module: str) -> bool:
    """Whether a module of this name lies below the working directory or on the path."""
    path = os.path.join(*module.split("."))
    return os.path.exists(path + ".py") or os.path.isdir(path)


def import_program(reference: Reference) -> ModuleType:
    """Import the program. Raises click.UsageError where there is none, ProgramError where it raises."""
    return _import_module(reference) if reference.is_module else _import_file(reference)


def module_name(path: str) -> str:
    """Under which name a file is imported, here and in containers: a dot would make it a part of a package."""
    return os.path.splitext(os.path.basename(path))[0].replace(".", "_")


def _import_file(reference: Reference) -> ModuleType:
    import importlib.util

    path = os.path.abspath(os.path.expanduser(reference.where))
    if os.path.isdir(path):
        raise click.UsageError(f"{reference.where!r} is a directory; run a package as a module: `-m package.module`.")
    if not os.path.isfile(path):
        raise click.UsageError(f"No such file: {reference.where!r}.{_similar_files(path)}")
    name = module_name(path)
    if name in ("modal", "intermodal"):
        raise click.UsageError(
            f"{reference.where!r} hides the package `{name}` from the program that it holds: rename the file."
        )
    directory = os.path.dirname(path)
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{reference.where!r} is no Python file: its name must end in `.py`.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    global _file
    _file = path
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
        raise ProgramError(reference, _hint(error, reference)) from error
    return module


def hidden_module() -> str:
    """What to do where the program that was imported has taken the name of one of Python's modules; else ""."""
    name = module_name(_file)
    if name not in getattr(sys, "stdlib_module_names", ()):
        return ""
    return f"The program hides Python's own module `{name}` from all that need that: rename {os.path.basename(_file)}."


def _import_module(reference: Reference) -> ModuleType:
    import importlib

    here = os.getcwd()
    if here not in sys.path[:1]:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(reference.where)
    except ModuleNotFoundError as error:
        if error.name and (reference.where == error.name or reference.where.startswith(f"{error.name}.")):
            raise click.UsageError(f"No module named {error.name!r} in {here} or on the Python path.") from None
        raise ProgramError(reference, _hint(error, reference)) from error
    except Exception as error:
        raise ProgramError(reference, _hint(error, reference)) from error


def _hint(error: Exception, reference: Reference) -> str:
    """What to do about the usual reasons for which an import fails."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    hidden = hidden_module()
    if hidden and (not missing or f"`{missing}`" in hidden):
        return hidden
    if isinstance(error, ImportError) and "attempted relative import" in str(error):
        return "Relative imports need the program to run as part of its package: `modal run -m package.module`."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"{error.name!r} is not installed where this command runs. Install it, or import it in the function that "
            "needs it (it is then imported in the container only)."
        )
    return ""


def _similar_files(path: str) -> str:
    import difflib

    try:
        names = [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".py")]
    except OSError:
        return ""
    close = difflib.get_close_matches(os.path.basename(path), names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def describe(app: App, reference: Reference) -> None:
    """An app without a name is listed under that of its program."""
    if app.name is None and app._description is None:
        app.set_description(reference.where if reference.is_module else os.path.basename(reference.where))
