"""What makes a class one of an app's: its methods, hooks and parameters, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modal._cls import Cls
from modal._definition import Definition, check_web_function
from modal._lifecycle import _CLS, has_constructor, partials_of
from modal._options import Options
from modal._parameter import collect_parameters
from modal._partial import as_partial
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._app import App
    from modal._partial import PartialFunction

_OLD_HOOKS = {
    "__enter__": "enter",
    "__exit__": "exit",
    "__aenter__": "enter",
    "__aexit__": "exit",
    "__build__": "build",
}


def define_class(app: App, target: Any, options: Options, serialized: bool) -> Cls:
    """The Cls of `@app.cls()`. Raises InvalidError."""
    if isinstance(target, Cls):
        raise InvalidError("@app.cls() is there already: one is enough.")
    partial = as_partial(target)
    user_cls = partial.raw
    if not isinstance(user_cls, type):
        raise InvalidError(f"@app.cls() goes on a class, not on {type(user_cls).__name__}. Use @app.function().")
    if partial.batching or partial.web or partial.is_hook:
        raise InvalidError(f"{user_cls.__name__}: of these decorators, only @modal.concurrent goes on a class.")
    tag = _class_tag(user_cls)
    definition = Definition(app, tag, partial, options, serialized)
    definition.check()
    partials = partials_of(user_cls)
    for name, one in partials.items():
        _check_method(tag, name, one)
    definition.methods = {name: one for name, one in partials.items() if one.is_callable_remotely}
    _check_together(tag, definition)
    parameters = collect_parameters(user_cls)
    definition.class_parameters = [one.as_json() for one in parameters.values()]
    _check_constructor(tag, user_cls, bool(parameters))
    _warn_old_hooks(user_cls)
    cls = Cls._of(definition, parameters)
    setattr(user_cls, _CLS, cls)
    return cls


def _class_tag(user_cls: type) -> str:
    local = user_cls.__qualname__.rpartition("<locals>.")[2]
    if "." in local:
        raise InvalidError(f"{user_cls.__qualname__}: @app.cls() must go on a class at the top level of its module.")
    return local


def _check_method(tag: str, name: str, partial: PartialFunction) -> None:
    if partial.concurrency:
        raise InvalidError(f"{tag}.{name}: @modal.concurrent goes on the class, not on a method.")
    check_web_function(f"{tag}.{name}", partial, own_parameters=1)
    if partial.enter is not None:
        from modal._callables import required_parameters

        needed = required_parameters(partial.raw)[1:]
        if needed:
            raise InvalidError(
                f"{tag}.{name}: nobody gives arguments to an @modal.enter() method: {needed[0]!r} needs a default."
            )


def _check_together(tag: str, definition: Definition) -> None:
    batched = [name for name, method in definition.methods.items() if method.batching]
    if batched and len(definition.methods) > 1:
        raise InvalidError(
            f"{tag} has the batched method {batched[0]!r} and other methods: a class with a batched method can "
            "have no other one, for they would share its containers."
        )
    if batched and (definition.partial.concurrency or definition.options.concurrent_max):
        raise InvalidError(f"{tag}: a batched method cannot be combined with input concurrency.")


def _check_constructor(tag: str, user_cls: type, has_parameters: bool) -> None:
    if not has_constructor(user_cls):
        return
    if has_parameters:
        raise InvalidError(f"{tag}: a class with modal.parameter() can have no __init__. Use @modal.enter() instead.")
    from modal._deprecation import warn_definition

    warn_definition(
        f"{tag} has a constructor (__init__). This is deprecated: use modal.parameter() for what instances "
        "differ in and @modal.enter() for what is done when a container starts."
    )


def _warn_old_hooks(user_cls: type) -> None:
    for name, decorator in _OLD_HOOKS.items():
        if name in vars(user_cls):
            from modal._deprecation import warn_definition

            hook = f"{user_cls.__name__}.{name}"
            warn_definition(f"{hook} is no lifecycle hook any more. Use @modal.{decorator}() instead.")


__all__ = ["define_class"]
