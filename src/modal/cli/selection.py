"""Which function of a program a command means: the one that is named, or the only one that it can be."""

from __future__ import annotations

import difflib
from types import ModuleType
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, NoReturn, Optional

import click

if TYPE_CHECKING:
    from modal import App
    from modal.cli.program import Reference


class Target(NamedTuple):
    """Something that `modal run` can start."""

    kind: str  # "entrypoint", "function" or "method"
    name: str  # "main", "square", "Model.predict"
    app: Any  # modal.App
    runnable: Any  # modal.LocalEntrypoint, modal.Function, or modal.Cls for a method
    method: str = ""
    module: str = ""  # where it is defined


def apps_of(module: ModuleType) -> Dict[str, App]:
    """The apps that are variables of the module, by the variable's name; each app once."""
    from modal import App

    found: Dict[str, App] = {}
    for name, value in vars(module).items():
        if isinstance(value, App) and not any(value is other for other in found.values()):
            found[name] = value
    return found


def targets_of(app: Any) -> Iterator[Target]:
    """All that can be started of one app."""
    for name, entrypoint in app.registered_entrypoints.items():
        yield Target("entrypoint", name, app, entrypoint, module=_module_of(entrypoint))
    for name, function in app.registered_functions.items():
        if not name.endswith(".*"):  # a class's own function is started by way of its methods
            yield Target("function", name, app, function, module=_module_of(function))
    for name, cls in app.registered_classes.items():
        for method in methods_of(cls):
            yield Target("method", f"{name}.{method}", app, cls, method, module=_module_of(cls))


def methods_of(cls: Any) -> List[str]:
    """The names of a class's methods that can be called."""
    return list(cls._method_names())


def _module_of(target: Any) -> str:
    from modal.cli.invocation import raw_of

    raw = raw_of(target)
    return getattr(raw, "__module__", "") or ""


def choose(module: ModuleType, reference: Reference) -> Target:
    """The target that the reference names, or the only candidate. Raises click.UsageError with the candidates."""
    apps = apps_of(module)
    if not apps:
        _no_app(reference)
    targets = [target for app in apps.values() for target in targets_of(app)]
    if reference.name:
        return _named(module, apps, targets, reference)
    return _only(module, targets, reference)


def choose_app(module: ModuleType, reference: Reference) -> Any:
    """The app that `modal deploy` means. Raises click.UsageError with the candidates."""
    apps = apps_of(module)
    if reference.name:
        app = apps.get(reference.name) or getattr(module, reference.name, None)
        if app is None or not hasattr(app, "registered_functions"):
            _unknown(reference, "app", list(apps))
        return app
    if not apps:
        _no_app(reference)
    if len(apps) == 1:
        return next(iter(apps.values()))
    if "app" in apps:
        return apps["app"]
    raise click.UsageError(
        f"{reference.where} has several apps; choose one:\n"
        + "\n".join(f"  {reference.where}::{name}" for name in apps)
    )


def _only(module: ModuleType, targets: List[Target], reference: Reference) -> Target:
    """The single local entrypoint, else the single function or method; those of the module itself come first."""
    for kinds in (("entrypoint",), ("function", "method")):
        found = [target for target in targets if target.kind in kinds]
        own = [target for target in found if target.module == module.__name__] or found
        if len(own) == 1:
            return own[0]
        if own:
            what = "local entrypoints" if kinds == ("entrypoint",) else "functions"
            start = f"  modal run {'-m ' if reference.is_module else ''}{reference.where}::"
            raise click.UsageError(
                f"{reference.where} has {len(own)} {what}; choose one:\n"
                + "\n".join(start + name for name in _told_apart(module, own))
            )
    raise click.UsageError(
        f"{reference.where} has an app, but neither a function (`@app.function()`) nor a local entrypoint "
        "(`@app.local_entrypoint()`)."
    )


def _told_apart(module: ModuleType, targets: List[Target]) -> List[str]:
    """Their names; with the variable of the app before it where several apps have the name."""
    variables = {id(app): name for name, app in apps_of(module).items()}
    names = [target.name for target in targets]
    return [
        f"{variables[id(target.app)]}.{target.name}" if names.count(target.name) > 1 else target.name
        for target in targets
    ]


def _named(module: ModuleType, apps: Dict[str, App], targets: List[Target], reference: Reference) -> Target:
    first, _, rest = reference.name.partition(".")
    if rest and first in apps:
        targets = [target for target in targets if target.app is apps[first]]
        found = _by_name(targets, rest, module.__name__)
    else:
        found = _by_name(targets, reference.name, module.__name__) or _by_variable(module, targets, reference.name)
    if found is None:
        prefix = f"{first}." if rest and first in apps else ""
        names = [prefix + target.name for target in targets] if prefix else _told_apart(module, targets)
        _unknown(reference, "function or local entrypoint", names)
    return found


def _by_name(targets: List[Target], name: str, module: str) -> Optional[Target]:
    """By tag; a class's name alone will do where it has one method."""
    found = [target for target in targets if target.name == name]
    if not found:
        methods = [target for target in targets if target.kind == "method" and target.name.partition(".")[0] == name]
        if len(methods) > 1:
            names = "\n".join(f"  {target.name}" for target in methods)
            raise click.UsageError(f"The class {name!r} has {len(methods)} methods; choose one:\n{names}")
        found = methods
    own = [target for target in found if target.module == module]
    return own[0] if own else found[0] if found else None


def _by_variable(module: ModuleType, targets: List[Target], name: str) -> Optional[Target]:
    """By the variable that holds it: a function under another name, a class made with `with_options`."""
    first, _, method = name.partition(".")
    value = getattr(module, first, None)
    if value is None:
        return None
    for target in targets:
        if target.runnable is value and target.method == method:
            return target
    origin = getattr(value, "_origin", None)  # of a class made with `with_options` and the like
    for target in targets:
        if origin is not None and target.runnable is origin and target.method == method:
            return target._replace(runnable=value)
    return None


def _no_app(reference: Reference) -> NoReturn:
    raise click.UsageError(
        f"{reference.where} has no app: it must have a `modal.App` as a variable, such as `app = modal.App()`."
    )


def _unknown(reference: Reference, what: str, candidates: List[str]) -> NoReturn:
    """Name what there is. Raises click.UsageError."""
    close = difflib.get_close_matches(reference.name, candidates, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = "\n".join(f"  {reference.where}::{name}" for name in candidates)
    there_is = f"\nThere is:\n{listed}" if candidates else " It has none."
    raise click.UsageError(f"{reference.where} has no {what} {reference.name!r}.{hint}{there_is}")
