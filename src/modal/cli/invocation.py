"""Calling what was chosen: the command line's values in, the result out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple, Union

from modal.cli.parameters import Parameter, Variadic, parameter, parameters_of, parse_arguments

if TYPE_CHECKING:
    from modal.cli.selection import Target

Call = Callable[[], Any]
_MISSING = object()


def raw_of(target: Any) -> Any:
    """The user's own function or class below one of ours."""
    from modal._cls import Cls

    return target._local_class() if isinstance(target, Cls) else target.get_raw_f()


def prepare(target: Target, args: Sequence[str], prog_name: str) -> Call:
    """Parse the arguments and return what will call the target inside `app.run()`.

    Raises click.UsageError; click.exceptions.Exit after `--help`; InvalidError for parameters that no text can fill.
    """
    if target.kind == "method":
        return _prepare_method(target, args, prog_name)
    raw = raw_of(target.runnable)
    positional, named = parse_arguments(parameters_of(raw), args, prog_name, _doc(raw))
    if target.kind == "entrypoint":
        return lambda: _call_locally(raw, positional, named)
    return lambda: _call_remotely(target.runnable, positional, named)


def _prepare_method(target: Target, args: Sequence[str], prog_name: str) -> Call:
    cls = target.runnable
    raw_method = cls._raw_method(target.method)
    for_class = _class_parameters(cls)
    for_method = parameters_of(raw_method, skip_first=True)
    if isinstance(for_method, Variadic) and not for_class:
        positional, named = parse_arguments(for_method, args, prog_name)
        return lambda: _call_remotely(getattr(cls(), target.method), positional, named)
    own: List[Parameter] = [] if isinstance(for_method, Variadic) else for_method
    positional, values = parse_arguments(_joined(for_class, own, target.name), args, prog_name, _doc(raw_method))
    of_class = {p.name for p in for_class}
    class_values = {name: value for name, value in values.items() if name in of_class}
    method_values = {name: value for name, value in values.items() if name not in of_class}
    return lambda: _call_remotely(getattr(cls(**class_values), target.method), positional, method_values)


def _class_parameters(cls: Any) -> List[Parameter]:
    """What an instance of the class is made of: its `modal.parameter()`s, or its constructor's parameters."""
    from modal._parameter import TYPES

    if cls._has_constructor:
        found = parameters_of(cls._local_class().__init__, skip_first=True)
        return [] if isinstance(found, Variadic) else found
    return [
        parameter(name, TYPES[one.type_name], one.default if one.has_default else _MISSING, cls._tag, missing=_MISSING)
        for name, one in cls._parameters.items()
    ]


def _joined(for_class: List[Parameter], for_method: List[Parameter], name: str) -> List[Parameter]:
    from modal.exception import InvalidError

    twice = {p.name for p in for_class} & {p.name for p in for_method}
    if twice:
        raise InvalidError(
            f"{name}: {', '.join(sorted(twice))} is a parameter of the class and of the method, so the command line "
            "cannot tell which one is meant."
        )
    return [*for_class, *for_method]


def _doc(function: Any) -> str:
    return (getattr(function, "__doc__", None) or "").strip()


def _call_locally(raw: Callable[..., Any], positional: Tuple[Any, ...], named: Dict[str, Any]) -> Any:
    import inspect

    result = raw(*positional, **named)
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def _call_remotely(function: Any, positional: Tuple[Any, ...], named: Dict[str, Any]) -> Any:
    if function._is_generator:
        from collections import deque

        deque(function.remote_gen(*positional, **named), maxlen=0)
        return None
    return function.remote(*positional, **named)


def write_result(result: Any, path: str) -> None:
    """`--write-result`. Raises InvalidError where the result is neither str nor bytes."""
    from modal.exception import InvalidError

    if not isinstance(result, (str, bytes)):
        raise InvalidError(
            f"--write-result needs a function that returns str or bytes, but it returned {type(result).__name__}."
        )
    data: Union[str, bytes] = result
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
