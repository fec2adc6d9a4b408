"""Typed messages: classes with annotated fields, and their form on the wire.

A message class is declared once and used by both peers:

    class SecretLookup(Message, type=41):
        name: str
        environment: str = ""

The header is a JSON array of the fields in order; binary fields (`bytes`, `List[bytes]`) leave
their lengths in the header and their content in the body, uncopied where that is possible.
Fields are checked when a message is decoded: a field of the wrong type is a ProtocolError.
A newer peer may append fields with defaults: an older one ignores them, and fills what an
older peer did not send.

Allowed annotations: str, int, float, bool, bytes, List[...], Dict[str, ...], Optional[...],
Any (any JSON value) and other `Record` classes. `dataclasses` is avoided on purpose: it costs
12 ms of every container's start.
"""

from __future__ import annotations

import json
import sys
import typing
from typing import TYPE_CHECKING, Any, Callable, ClassVar

from modal._protocol.errors import ProtocolError

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_options: Any) -> Callable[[Any], Any]:
        return lambda cls: cls


_encode_json = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode_json = json.JSONDecoder().decode
_MISSING = object()


def _own_annotations(cls: type) -> dict[str, str]:
    """Field name to annotation, as text (modules of messages import `annotations` from `__future__`)."""
    own = cls.__dict__.get("__annotations__")
    if own is None:  # Python 3.14 makes them on demand
        own = cls.__annotations__ if "__annotate_func__" in cls.__dict__ else {}
    return {name: text for name, text in own.items() if not name.startswith("__") and "ClassVar" not in text}


@dataclass_transform()
class Record:
    """A typed group of fields that may stand inside a message."""

    __fields__: ClassVar[tuple[str, ...]] = ()
    __compiled__: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherited = [name for base in cls.__mro__[1:] for name in base.__dict__.get("__own_fields__", ())]
        cls.__own_fields__ = tuple(_own_annotations(cls))
        cls.__fields__ = (*inherited, *cls.__own_fields__)
        cls.__compiled__ = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _compile_init(type(self))
        type(self).__init__(self, *args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{n}={_brief(getattr(self, n))}' for n in self.__fields__)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__fields__)

    __hash__ = None  # type: ignore[assignment]  # fields may change

    if TYPE_CHECKING:
        __own_fields__: ClassVar[tuple[str, ...]]


class Message(Record):
    """A record with a number of its own, which may be sent."""

    TYPE: ClassVar[int] = 0
    registry: ClassVar[dict[int, type[Message]]] = {}

    def __init_subclass__(cls, *, type: int = 0, **options: Any) -> None:
        super().__init_subclass__(**options)
        if type:
            known = Message.registry.get(type)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise TypeError(f"message type {type} belongs to {known.__name__} already")
            cls.TYPE = type
            Message.registry[type] = cls

    def encode(self) -> tuple[bytes, bytes]:
        """Header and body of the frame that carries this message."""
        cls = type(self)
        blobs: list[bytes] = []
        header = _encode_json(_encoder(cls)(self, blobs)).encode()
        if not blobs:
            return header, b""
        return header, blobs[0] if len(blobs) == 1 else b"".join(blobs)

    @classmethod
    def decode(cls, header: bytes, body: bytes) -> Self:
        """The message of this class in a frame's header and body. Raises ProtocolError."""
        try:
            values = _decode_json(header.decode()) if header else []
            message, used = _decoder(cls)(values, body, 0)
        except ProtocolError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise ProtocolError(f"not a {cls.__name__}: {error}") from None
        if used != len(body):
            raise ProtocolError(f"{cls.__name__}: {len(body) - used} bytes of the body belong to no field")
        return typing.cast("Self", message)


def decode(type: int, header: bytes, body: bytes) -> Message:
    """The message that a frame carries. Raises ProtocolError where the type is unknown or the content wrong."""
    cls = Message.registry.get(type)
    if cls is None:
        raise ProtocolError(f"unknown message type {type}: the peer is of another version")
    return cls.decode(header, body)


def to_json(record: Record) -> Any:
    """A record without binary fields as a JSON value, to keep it (the store, a file)."""
    blobs: list[bytes] = []
    values = _encoder(type(record))(record, blobs)
    if blobs:
        raise TypeError(f"{type(record).__name__} holds binary fields")
    return values


def from_json(cls: type[Any], values: Any) -> Any:
    """The record that `to_json` made `values` of. Raises ProtocolError where it fits no longer."""
    try:
        record, _used = _decoder(cls)(values, b"", 0)
    except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise ProtocolError(f"not a {cls.__name__}: {error}") from None
    return record


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…({len(text)} characters)"


# -- what is made of a class when it is first used ------------------------------------------------

_encoders: dict[type, Callable[[Any, list[bytes]], list[Any]]] = {}
_decoders: dict[type, Callable[[Any, bytes, int], tuple[Any, int]]] = {}


def _compile_init(cls: type[Record]) -> None:
    """Give the class an `__init__` of its own, as plain as one written by hand."""
    names = cls.__fields__
    scope: dict[str, Any] = {"_M": _MISSING}
    params, body, optional = [], [], False
    for name in names:
        default = getattr(cls, name, _MISSING)
        if default is _MISSING:
            if optional:
                raise TypeError(f"{cls.__name__}.{name} has no default but follows one that has")
            params.append(name)
            body.append(f" self.{name} = {name}")
            continue
        optional = True
        scope[f"_d_{name}"] = default
        if isinstance(default, (list, dict)):
            params.append(f"{name}=_M")
            body.append(f" self.{name} = _d_{name}.copy() if {name} is _M else {name}")
        else:
            params.append(f"{name}=_d_{name}")
            body.append(f" self.{name} = {name}")
    source = f"def __init__(self, {', '.join(params)}):\n" + ("\n".join(body) or " pass")
    exec(source, scope)  # noqa: S102 - our own text, made from declared field names
    cls.__init__ = scope["__init__"]  # type: ignore[method-assign]


def _hints(cls: type[Record]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for base in cls.__mro__:
        scope = vars(sys.modules[base.__module__])
        for name in base.__dict__.get("__own_fields__", ()):
            hints[name] = eval(_own_annotations(base)[name], scope)  # noqa: S307 - our own annotations
    return hints


def _encoder(cls: type[Any]) -> Callable[[Any, list[bytes]], list[Any]]:
    made = _encoders.get(cls)
    if made is None:
        hints = _hints(cls)
        parts: list[str] = []
        scope: dict[str, Any] = {}
        for number, name in enumerate(cls.__fields__):
            parts.append(_encode_expression(hints[name], f"m.{name}", number, scope))
        exec(f"def encode(m, blobs):\n return [{', '.join(parts)}]", scope)  # noqa: S102 - as above
        made = _encoders[cls] = scope["encode"]
    return made


def _encode_expression(hint: Any, value: str, number: int, scope: dict[str, Any]) -> str:
    if not _needs_work(hint):
        return value
    scope[f"_e{number}"] = _encode_value(hint)
    return f"_e{number}({value}, blobs)"


def _needs_work(hint: Any) -> bool:
    """Whether a value of this annotation holds bytes or records somewhere."""
    if hint is bytes or (isinstance(hint, type) and issubclass(hint, Record)):
        return True
    return any(_needs_work(part) for part in typing.get_args(hint))


def _encode_value(hint: Any) -> Callable[[Any, list[bytes]], Any]:
    if hint is bytes:

        def encode_bytes(value: bytes, blobs: list[bytes]) -> int:
            blobs.append(value)
            return len(value)

        return encode_bytes
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        if args[0] is bytes:

            def encode_many(value: list[bytes], blobs: list[bytes]) -> list[int]:
                blobs.extend(value)
                return list(map(len, value))

            return encode_many
        one = _encode_value(args[0])
        return lambda value, blobs: [one(item, blobs) for item in value]
    if origin is dict:
        one = _encode_value(args[1])
        return lambda value, blobs: {key: one(item, blobs) for key, item in value.items()}
    if origin is typing.Union:
        one = _encode_value(next(arg for arg in args if arg is not type(None)))
        return lambda value, blobs: None if value is None else one(value, blobs)
    if isinstance(hint, type) and issubclass(hint, Record):
        encode_record = _encoder(hint)
        return lambda value, blobs: encode_record(value, blobs)
    return lambda value, blobs: value


def _decoder(cls: type[Any]) -> Callable[[Any, bytes, int], tuple[Any, int]]:
    made = _decoders.get(cls)
    if made is None:
        made = _decoders[cls] = _make_decoder(cls)
    return made


def _make_decoder(cls: type[Any]) -> Callable[[Any, bytes, int], tuple[Any, int]]:
    hints = _hints(cls)
    readers = [(name, _decode_value(hints[name], f"{cls.__name__}.{name}")) for name in cls.__fields__]
    defaults = [getattr(cls, name, _MISSING) for name in cls.__fields__]
    new = cls.__new__

    def decode_record(values: Any, body: bytes, at: int) -> tuple[Any, int]:
        if type(values) is not list:
            raise ProtocolError(f"{cls.__name__}: an array was expected")
        record = new(cls)
        count = len(values)
        for number, (name, read) in enumerate(readers):
            if number < count:
                value, at = read(values[number], body, at)
            else:
                value = defaults[number]
                if value is _MISSING:
                    raise ProtocolError(f"{cls.__name__}.{name} is missing")
                if isinstance(value, (list, dict)):
                    value = value.copy()
            setattr(record, name, value)
        return record, at

    return decode_record


_Reader = Callable[[Any, bytes, int], "tuple[Any, int]"]


def _decode_value(hint: Any, where: str) -> _Reader:
    if hint is bytes:

        def read_bytes(size: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(size) is not int or size < 0 or at + size > len(body):
                raise ProtocolError(f"{where}: no {size!r} bytes in the body")
            return body[at : at + size], at + size

        return read_bytes
    if hint is Any:
        return lambda value, body, at: (value, at)
    if hint in (str, int, bool):

        def read_plain(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not hint:
                raise ProtocolError(f"{where}: {hint.__name__} expected, not {type(value).__name__}")
            return value, at

        return read_plain
    if hint is float:

        def read_float(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not float and type(value) is not int:
                raise ProtocolError(f"{where}: a number expected, not {type(value).__name__}")
            return float(value), at

        return read_float
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return _decode_list(args[0], where)
    if origin is dict:
        one_value = _decode_value(args[1], where)

        def read_dict(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not dict:
                raise ProtocolError(f"{where}: an object expected")
            result = {}
            for key, item in value.items():
                result[key], at = one_value(item, body, at)
            return result, at

        return read_dict
    if origin is typing.Union:
        inner = _decode_value(next(arg for arg in args if arg is not type(None)), where)
        return lambda value, body, at: (None, at) if value is None else inner(value, body, at)
    if isinstance(hint, type) and issubclass(hint, Record):
        return _decoder(hint)
    raise TypeError(f"{where}: {hint!r} cannot stand in a message")


def _decode_list(item: Any, where: str) -> _Reader:
    one = _decode_value(item, where)
    if item in (str, int, bool):

        def read_plain_list(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not list or not all(type(part) is item for part in value):
                raise ProtocolError(f"{where}: a list of {item.__name__} expected")
            return value, at

        return read_plain_list

    def read_list(value: Any, body: bytes, at: int) -> tuple[Any, int]:
        if type(value) is not list:
            raise ProtocolError(f"{where}: a list expected")
        result = []
        for part in value:
            decoded, at = one(part, body, at)
            result.append(decoded)
        return result, at

    return read_list
