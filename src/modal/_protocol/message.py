"""Typed messages: classes with annotated fields, and their form on the wire.

A message class is declared once and used by both peers:

    class SecretLookup(Message, type=41):
        name: str
        environment: str = ""

The header is a JSON array of the fields in order; binary fields (`bytes`, `List[bytes]`) leave
their lengths in the header and their content in the body, uncopied where that is possible.
Fields are checked when a message is decoded: a field of the wrong type is a ProtocolError.
A newer peer may append fields with defaults: an older one ignores them, and fills what an
older peer did not send. (Binary fields may be appended to messages only, not to records inside
them: a record's bytes are followed by the next one's.)

Allowed annotations: str, int, float, bool, bytes, List[...], Dict[str, ...], Optional[...],
Any (any JSON value) and other `Record` classes. `dataclasses` is avoided on purpose: it costs
12 ms of every container's start.
"""

from __future__ import annotations

import sys
import typing
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Callable, ClassVar

from modal._protocol.errors import ProtocolError
from modal._protocol.header import CAREFUL_SIZE, dump, dump_float, dump_sizes, dump_text, parse_header, scan

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:

    def dataclass_transform(**_options: Any) -> Callable[[Any], Any]:
        return lambda cls: cls


_MISSING = object()
_INT_LIMIT = 1 << 63  # integers are signed 64-bit numbers, as in the store


def _own_annotations(cls: type) -> dict[str, str]:
    """Field name to annotation, as text (modules of messages import `annotations` from `__future__`)."""
    own = vars(cls).get("__annotations__")
    if own is None:  # Python 3.14 makes them on demand
        own = cls.__annotations__ if "__annotate_func__" in cls.__dict__ else {}
    return {name: text for name, text in own.items() if not name.startswith("__") and "ClassVar" not in text}


@dataclass_transform()
class Record:
    """A typed group of fields that may stand inside a message."""

    __fields__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        inherited = [name for base in cls.__mro__[1:] for name in base.__dict__.get("__own_fields__", ())]
        cls.__own_fields__ = tuple(_own_annotations(cls))
        cls.__fields__ = (*inherited, *cls.__own_fields__)
        if cls.__own_fields__:  # what was compiled for a base class lacks these fields
            cls.__init__ = Record.__init__  # type: ignore[method-assign]

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
        """Header and body of the frame that carries this message. Raises TypeError for a field of the wrong type."""
        made = _packers.get(type(self))
        if made is None:
            made = _packers[type(self)] = _make_packer(type(self))
        return made(self)

    @classmethod
    def decode(cls, header: bytes, body: bytes) -> Self:
        """The message of this class in a frame's header and body. Raises ProtocolError."""
        return typing.cast("Self", _unpack(cls, header, body))


def decode(type: int, header: bytes, body: bytes) -> Message:
    """The message that a frame carries. Raises ProtocolError where the type is unknown or the content wrong."""
    cls = Message.registry.get(type)
    if cls is None:
        raise ProtocolError(f"unknown message type {type}: the peer is of another version")
    return _unpack(cls, header, body)  # type: ignore[no-any-return]


def _unpack(cls: type[Message], header: bytes, body: bytes) -> Any:
    try:
        read = _decoders.get(cls) or _decoder(cls)
        text = header.decode()
        if 1 < len(text) < CAREFUL_SIZE:
            values, end = scan(text, 0)
            if end != len(text):
                raise ProtocolError("the header goes on after its JSON value")
        else:
            values = parse_header(header)
        message, used = read(values, body, 0)
    except ProtocolError as error:
        raise ProtocolError(f"{cls.__name__}: {error}") from None
    except StopIteration:
        raise ProtocolError(f"{cls.__name__}: the header is no JSON") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"not a {cls.__name__}: {error}") from None
    if used != len(body) and len(values) <= len(cls.__fields__):
        raise ProtocolError(f"{cls.__name__}: {len(body) - used} bytes of the body belong to no field")
    return message


def to_json(record: Record) -> Any:
    """A record without binary fields as a JSON value, to keep it (the store, a file)."""
    blobs: list[bytes] = []
    values = _encoder(type(record))(record, blobs)
    if any(blobs):  # empty ones are fine: their length, 0, is all that is kept
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

_packers: dict[type, Callable[[Any], tuple[bytes, bytes]]] = {}
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


def _make_packer(cls: type[Message]) -> Callable[[Any], tuple[bytes, bytes]]:
    """`encode` of one class, as plain as one written by hand.

    The header of a message of scalars and blobs is one formatted string; else it is one array for the JSON encoder.
    """
    hints = _hints(cls)
    scope: dict[str, Any] = {"text": dump_text, "number": dump_float, "sizes": dump_sizes, "dump": dump}
    scope["join"] = b"".join
    scalars, values, lines, blobs = [], [], [], []
    for number, name in enumerate(cls.__fields__):
        hint, value = hints[name], f"m.{name}"
        scalar = ""
        if hint is str:
            scalar = f"{{text({value})}}"
        elif hint is int:
            scalar = f"{{{value}:d}}"
        elif hint is bool:
            scalar = f"{{'true' if {value} else 'false'}}"
        elif hint is float:
            scalar = f"{{number({value})}}"
        elif hint is bytes:
            lines.append(f"b{number} = {value}")
            blobs.append(f"b{number},")
            scalar, value = f"{{len(b{number})}}", f"len(b{number})"
        elif hint == typing.List[bytes]:
            lines.append(f"b{number} = {value}")
            blobs.append(f"*b{number},")
            value = f"[*map(len, b{number})]"
            scalar = f"{{sizes({value})}}"
        elif _needs_work(hint):
            scope[f"e{number}"] = _encode_value(hint)
            lines.append(f"b{number} = []; v{number} = e{number}({value}, b{number})")
            blobs.append(f"*b{number},")
            value = f"v{number}"
        scalars.append(scalar)
        values.append(value)
    header = 'f"[' + ",".join(scalars) + ']"' if all(scalars) else f"dump([{', '.join(values)}])"
    if not blobs:
        body = 'b""'
    elif len(blobs) > 1:
        body = f"join(({' '.join(blobs)}))"
    else:
        body = blobs[0][:-1] if not blobs[0].startswith("*") else f"join({blobs[0][1:-1]})"
    source = "def encode(m):\n" + "".join(f" {line}\n" for line in lines) + f" return {header}.encode(), {body}"
    exec(source, scope)  # noqa: S102 - our own text, made from declared field names
    return typing.cast("Callable[[Any], tuple[bytes, bytes]]", scope["encode"])


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
        return _encoder(hint)
    return lambda value, blobs: value


def _decoder(cls: type[Any]) -> Callable[[Any, bytes, int], tuple[Any, int]]:
    made = _decoders.get(cls)
    if made is None:
        made = _decoders[cls] = _make_decoder(cls)
    return made


def _make_decoder(cls: type[Any]) -> Callable[[Any, bytes, int], tuple[Any, int]]:
    """Reads the whole record in one straight line; an array that is too short is read with `_make_short`."""
    hints = _hints(cls)
    readers = {name: _decode_value(hints[name], f"{cls.__name__}.{name}") for name in cls.__fields__}
    scope: dict[str, Any] = {
        "cls": cls,
        "new": cls.__new__,
        "short": _make_short(cls, readers),
        "wrong": _wrong,
        "limit": _INT_LIMIT,
        "strings": {str},
        "integers": {int},
    }
    lines = [f"if type(values) is not list or len(values) < {len(cls.__fields__)}: return short(values, body, at)"]
    lines.append("m = new(cls)")
    for number, name in enumerate(cls.__fields__):
        hint, where = hints[name], f"{cls.__name__}.{name}"
        lines.append(f"v = values[{number}]")
        keep = f"m.{name} = v"
        if hint is str or hint is bool:
            lines += [f"if type(v) is not {hint.__name__}: wrong({where!r}, {hint.__name__!r}, v)", keep]
        elif hint is int:
            lines += [f"if type(v) is not int or not -limit <= v < limit: wrong({where!r}, 'int', v)", keep]
        elif hint is bytes:
            lines += [
                "end = at + v if type(v) is int and v >= 0 else -1",
                f"if not at <= end <= len(body): wrong({where!r}, 'bytes of the body', v)",
                f"m.{name} = body[at:end]",
                "at = end",
            ]
        elif typing.get_origin(hint) is list and typing.get_args(hint)[0] in (str, int):
            known = "strings" if typing.get_args(hint)[0] is str else "integers"
            lines += [
                f"if type(v) is not list or (v and {{*map(type, v)}} != {known}):",
                f" wrong({where!r}, 'list of {known}', v)",
                keep,
            ]
        else:
            scope[f"r{number}"] = readers[name]
            lines.append(f"m.{name}, at = r{number}(v, body, at)")
    lines.append("return m, at")
    source = "def read(values, body, at):\n" + "".join(f" {line}\n" for line in lines)
    exec(source, scope)  # noqa: S102 - our own text, made from declared field names
    return typing.cast("Callable[[Any, bytes, int], tuple[Any, int]]", scope["read"])


def _wrong(where: str, wanted: str, value: object) -> typing.NoReturn:
    raise ProtocolError(f"{where}: {wanted} expected, not {_brief(value)}")


def _make_short(cls: type[Any], readers: dict[str, _Reader]) -> Callable[[Any, bytes, int], tuple[Any, int]]:
    """For what an older peer sends: fields at the end are missing and get their defaults."""
    defaults = [getattr(cls, name, _MISSING) for name in cls.__fields__]

    new: Any = cls.__new__

    def read_short(values: Any, body: bytes, at: int) -> tuple[Any, int]:
        if type(values) is not list:
            raise ProtocolError(f"{cls.__name__}: an array was expected")
        record = new(cls)
        for number, (name, read) in enumerate(readers.items()):
            if number < len(values):
                value, at = read(values[number], body, at)
            else:
                value = defaults[number]
                if value is _MISSING:
                    raise ProtocolError(f"{cls.__name__}.{name} is missing")
                if isinstance(value, (list, dict)):
                    value = value.copy()
            setattr(record, name, value)
        return record, at

    return read_short


_Reader = Callable[[Any, bytes, int], "tuple[Any, int]"]


def _decode_value(hint: Any, where: str) -> _Reader:
    if hint is bytes:

        def read_bytes(size: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(size) is not int or not 0 <= size <= len(body) - at:
                _wrong(where, "bytes of the body", size)
            return body[at : at + size], at + size

        return read_bytes
    if hint is Any:
        return lambda value, body, at: (value, at)
    if hint in (str, int, bool):

        def read_plain(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not hint or (hint is int and not -_INT_LIMIT <= value < _INT_LIMIT):
                _wrong(where, hint.__name__, value)
            return value, at

        return read_plain
    if hint is float:

        def read_float(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not float and type(value) is not int:
                _wrong(where, "a number", value)
            return float(value), at

        return read_float
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return _decode_list(args[0], where)
    if origin is dict:
        one_value = _decode_value(args[1], where)

        def read_dict(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not dict:
                _wrong(where, "an object", value)
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
    if item is bytes:

        def read_blobs(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not list:
                _wrong(where, "a list of sizes", value)
            if not value:
                return [], at
            if len(value) == 1:  # most are, and this is a fifth of the work
                end = at + value[0] if type(value[0]) is int and value[0] >= 0 else -1
                if not at <= end <= len(body):
                    _wrong(where, "bytes of the body", value)
                return [body[at:end]], end
            if {*map(type, value)} != {int} or min(value) < 0:
                _wrong(where, "sizes", value)
            ends = [*accumulate(value, initial=at)]
            if ends[-1] > len(body):
                _wrong(where, "bytes of the body", value)
            return [body[begin:end] for begin, end in zip(ends, ends[1:])], ends[-1]

        return read_blobs
    if item in (str, int, bool):

        def read_plain_list(value: Any, body: bytes, at: int) -> tuple[Any, int]:
            if type(value) is not list or not all(type(part) is item for part in value):
                _wrong(where, f"a list of {item.__name__}", value)
            return value, at

        return read_plain_list
    one = _decode_value(item, where)

    def read_list(value: Any, body: bytes, at: int) -> tuple[Any, int]:
        if type(value) is not list:
            _wrong(where, "a list", value)
        result = []
        for part in value:
            decoded, at = one(part, body, at)
            result.append(decoded)
        return result, at

    return read_list
