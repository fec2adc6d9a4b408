"""Class parameters: `foo: str = modal.parameter()`."""

from __future__ import annotations

import sys
from typing import Any

from modal.exception import InvalidError


class _NoDefault:
    def __repr__(self) -> str:
        return "..."


_no_default = _NoDefault()
TYPES = {"str": str, "int": int, "bool": bool, "bytes": bytes}
MAX_SIZE = 16 * 1024  # bytes of all values of one instance


class Parameter:
    """What `modal.parameter()` leaves on the class."""

    def __init__(self, default: Any, init: bool) -> None:
        self.default = default
        self.init = init
        self.name = ""
        self.type_name = ""

    @property
    def has_default(self) -> bool:
        return self.default is not _no_default

    def check_value(self, owner: str, value: Any) -> None:
        """Raise InvalidError where the value is of another type: nothing is converted."""
        wanted = TYPES[self.type_name]
        if type(value) is not wanted and not (isinstance(value, wanted) and not isinstance(value, bool)):
            raise InvalidError(
                f"{owner}: the parameter {self.name!r} must be of type {self.type_name}, not {type(value).__name__}."
            )

    def as_json(self) -> list[Any]:
        """[name, type name, has default, default]; bytes as base64."""
        default = self.default if self.has_default else None
        if isinstance(default, bytes):
            import base64

            default = base64.b64encode(default).decode()
        return [self.name, self.type_name, self.has_default, default]

    @classmethod
    def from_json(cls, values: list[Any]) -> Parameter:
        name, type_name, has_default, default = values
        if type_name == "bytes" and has_default:
            import base64

            default = base64.b64decode(default)
        parameter = cls(default if has_default else _no_default, True)
        parameter.name, parameter.type_name = name, type_name
        return parameter


def parameter(*, default: Any = _no_default, init: bool = True) -> Any:
    """Used to specify options for modal.cls parameters, similar to dataclass.field for dataclasses.

    ```python
    class A:
        a: str = modal.parameter()
    ```

    If `init=False` is specified, the field is not considered a parameter for the Modal class and not used in the
    synthesized constructor. This can be used to optionally annotate the type of a field that's used internally.
    """
    return Parameter(default, init)


def _annotations(cls: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import importlib

        annotationlib: Any = importlib.import_module("annotationlib")
        return dict(annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF))
    return dict(vars(cls).get("__annotations__") or {})


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation.strip().removeprefix("builtins.")
    return getattr(annotation, "__name__", str(annotation))


def collect_parameters(cls: type) -> dict[str, Parameter]:
    """The parameters of a class and those it inherits. Takes `init=False` ones off the class. Raises InvalidError."""
    found: dict[str, Parameter] = {}
    for base in reversed(cls.__mro__):
        annotations = None
        for name, value in list(vars(base).items()):
            if not isinstance(value, Parameter):
                found.pop(name, None)  # overridden by something else
                continue
            if not value.init:
                delattr(base, name)
                continue
            if annotations is None:
                annotations = _annotations(base)
            if name not in annotations:
                raise InvalidError(f"{cls.__name__}.{name}: a parameter needs a type: write `{name}: str = ...`.")
            value.name, value.type_name = name, _type_name(annotations[name])
            if value.type_name not in TYPES:
                raise InvalidError(
                    f"{cls.__name__}.{name}: {value.type_name} is no type for a parameter. "
                    f"Use {', '.join(TYPES)}; anything else can be made of these in an @modal.enter() method."
                )
            if value.has_default:
                value.check_value(cls.__name__, value.default)
            found[name] = value
    return found


def pickle_values(values: dict[str, Any]) -> bytes:
    """The same bytes for equal values, from every process: containers are pooled by them."""
    import io
    import pickle

    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 4)
    pickler.fast = True  # no memo: whether two strings are the same object must not matter
    pickler.dump({name: values[name] for name in sorted(values)})
    return buffer.getvalue()
