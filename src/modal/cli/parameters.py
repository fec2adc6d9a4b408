"""A function's parameters as command-line options: `def main(n_steps: int = 3)` takes `--n-steps 5`."""

from __future__ import annotations

import datetime
import enum
import typing
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type

import click
from click.core import ParameterSource

if typing.TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType

ALLOWED = "str, int, float, bool and datetime.datetime, Optional or not"


class Timestamp(ParamType):
    """A date, or a date and time, in ISO 8601."""

    name = "datetime"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if isinstance(value, datetime.datetime):
            return value
        text = str(value).strip()
        try:
            return datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
        except ValueError:
            self.fail(f"{value!r} is no date and time; write it like 2025-06-30 or 2025-06-30T12:00:00.", param, ctx)


class ByConstructor(ParamType):
    """A type that is made from one string, such as Path."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self.make = make
        self.name = "path" if _is_path(make) else "text"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.make(value)
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)


class Member(ParamType):
    """A member of an Enum, by its name; or by its value, where that is text or a number."""

    name = "member"

    def __init__(self, kind: Type[enum.Enum]) -> None:
        self.kind = kind
        self.members: Dict[str, enum.Enum] = {}
        for one in kind:
            if isinstance(one.value, (str, int)):
                self.members[str(one.value)] = one
        self.members.update(kind.__members__)  # names win

    def get_metavar(self, param: click.Parameter, ctx: Optional[click.Context] = None) -> str:
        return f"[{'|'.join(self.kind.__members__)}]"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        if isinstance(value, self.kind):
            return value
        if value not in self.members:
            self.fail(f"{value!r} is not one of {', '.join(self.kind.__members__)}.", param, ctx)
        return self.members[value]


class Unsuitable(ParamType):
    """A parameter that no text can stand for: it keeps its default."""

    name = "unsuitable"

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        kind = _type_name(self.annotation)
        self.fail(f"a value of type {kind} cannot come from the command line: possible are {ALLOWED}.", param, ctx)


class Parameter(NamedTuple):
    """One parameter of an entrypoint, before it is an option."""

    name: str
    type: Optional[ParamType]  # None: a flag
    required: bool
    default: Any = None
    positional: bool = False  # `def main(x, /)`: it cannot be passed by name


class Variadic(NamedTuple):
    """The entrypoint takes `*args`: it gets the command line's strings as they are."""

    name: str


def parameters_of(function: Callable[..., Any], skip_first: bool = False) -> List[Parameter] | Variadic:
    """What the command line may say to `function`. `skip_first`: it is a method that gets its `self` otherwise.

    Raises InvalidError for a parameter that must be given and cannot come from the command line.
    """
    import inspect

    from modal.exception import InvalidError

    signature = inspect.signature(function)
    found = list(signature.parameters.values())
    if skip_first:
        found = found[1:]
    hints = _hints(function)
    variadic = [p for p in found if p.kind is p.VAR_POSITIONAL]
    plain = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if variadic:
        if plain:
            raise InvalidError(
                f"{_shown(function)} takes *{variadic[0].name} and other parameters: the command line can fill either "
                f"named parameters or *{variadic[0].name} alone."
            )
        return Variadic(variadic[0].name)
    return [
        parameter(
            p.name, hints.get(p.name, p.annotation), p.default, _shown(function), missing=inspect.Parameter.empty
        )._replace(positional=p.kind is p.POSITIONAL_ONLY)
        for p in plain
    ]


def parameter(name: str, annotation: Any, default: Any, where: str, missing: Any) -> Parameter:
    """One parameter. `default` is `missing` where it must be given."""
    from modal.exception import InvalidError

    required = default is missing
    if annotation is missing:
        annotation = str if required or default is None else type(default)
        guessed = True
    else:
        guessed = False
    kind = _param_type(annotation)
    if kind is bool:
        return Parameter(name, None, required, None if required else default)
    if kind is None and guessed:
        kind = ByConstructor(annotation) if _is_path(annotation) else None
    if kind is None:
        if required:
            raise InvalidError(
                f"{where} needs `{name}` of type {_type_name(annotation)}, which cannot come from the command line. "
                f"Possible are {ALLOWED}; or take *args and parse them yourself."
            )
        kind = Unsuitable(annotation)
    return Parameter(name, kind, required, None if required else default)


def _param_type(annotation: Any) -> Any:
    """A click type, `bool` for flags, None for what cannot come from the command line."""
    annotation = _without_none(annotation)
    if annotation is bool:
        return bool
    plain: Dict[Any, ParamType] = {str: click.STRING, int: click.INT, float: click.FLOAT}
    if annotation in plain:
        return plain[annotation]
    if annotation is datetime.datetime:
        return Timestamp()
    if annotation is Any or annotation is object:
        return click.STRING
    if annotation is bytes:
        return ByConstructor(str.encode)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return Member(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        values = typing.get_args(annotation)
        return click.Choice(list(values)) if all(isinstance(value, str) for value in values) else None
    return ByConstructor(annotation) if _is_path(annotation) else None


def _is_path(annotation: Any) -> bool:
    import pathlib

    return isinstance(annotation, type) and issubclass(annotation, pathlib.PurePath)


def _without_none(annotation: Any) -> Any:
    """`T` of `Optional[T]`, `T | None` and `Annotated[T, …]`."""
    origin = typing.get_origin(annotation)
    if origin is not None and hasattr(annotation, "__metadata__"):
        return _without_none(typing.get_args(annotation)[0])
    if origin is typing.Union or type(annotation).__name__ == "UnionType":
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        if len(inner) == 1:
            return _without_none(inner[0])
    return annotation


def _hints(function: Any) -> Dict[str, Any]:
    """Evaluated annotations; those that cannot be evaluated stay text."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    function = getattr(function, "__func__", function)
    annotations = getattr(function, "__annotations__", {})
    scope = getattr(function, "__globals__", {})
    hints = {}
    for name, annotation in annotations.items():
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(scope))  # noqa: S307 - the program's own annotation
            except Exception:  # a name that exists for type checkers alone, or `X | Y` on an older Python
                annotation = _by_text(annotation)
        hints[name] = annotation
    return hints


def _by_text(annotation: str) -> Any:
    """`int | None` as text, where this Python cannot evaluate it."""
    names = [part.strip() for part in annotation.split("|")]
    known = {"str": str, "int": int, "float": float, "bool": bool, "datetime.datetime": datetime.datetime}
    inner = [part for part in names if part != "None"]
    if len(inner) == 1 and inner[0] in known:
        return Optional[known[inner[0]]]
    return annotation


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _shown(function: Any) -> str:
    return f"`{getattr(function, '__qualname__', getattr(function, '__name__', function))}`"


def _option(entry: Parameter) -> click.Option:
    flag = entry.name.replace("_", "-")
    common: Dict[str, Any] = {"required": entry.required}
    if _can_show(entry):
        common.update(default=entry.default, show_default=True)
    if entry.type is None:
        return click.Option([f"--{flag}/--no-{flag}", entry.name], **common)
    return click.Option([f"--{flag}", entry.name], type=entry.type, hidden=isinstance(entry.type, Unsuitable), **common)


def _can_show(entry: Parameter) -> bool:
    """Whether the default is one that the option itself could have given."""
    if entry.required or entry.default is None or isinstance(entry.type, Unsuitable):
        return False
    if entry.type is None:
        return isinstance(entry.default, bool)
    try:
        entry.type.convert(entry.default, None, None)
    except (click.UsageError, TypeError, ValueError):
        return False
    return True


def parse_arguments(
    parameters: List[Parameter] | Variadic, args: Sequence[str], prog_name: str, help: str = ""
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """The arguments as (positional, by name). Raises click.UsageError; click.exceptions.Exit after `--help`."""
    from modal.cli.command import Command

    if isinstance(parameters, Variadic):
        return tuple(args), {}
    command = Command(prog_name, params=[_option(p) for p in parameters], help=help or None)
    context = command.make_context(prog_name, list(args), parent=None)
    with context:
        source = context.get_parameter_source
        given = {name: v for name, v in context.params.items() if source(name) is ParameterSource.COMMANDLINE}
    return _in_order([p for p in parameters if p.positional], given), given


def _in_order(positional: List[Parameter], given: Dict[str, Any]) -> Tuple[Any, ...]:
    """Take those that can be passed by position alone out of `given`: up to the last, others' defaults before it."""
    last = max((number for number, p in enumerate(positional, 1) if p.name in given), default=0)
    return tuple(given.pop(p.name, p.default) for p in positional[:last])
