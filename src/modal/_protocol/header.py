"""The text of a header: compact JSON, quickly written and carefully read.

`json.dumps` and `json.loads` build their encoder or strip white space at each call, which costs
more than the work itself for headers as small as these; the same C functions are used here directly.
"""

from __future__ import annotations

import json
import json.encoder
from typing import Any, Callable

from modal._protocol.errors import ProtocolError

CAREFUL_SIZE = 4096  # characters; below it no number can be long enough to cost anything
LONGEST_INTEGER = 20  # characters of a signed 64-bit number

dump_text: Callable[[str], str] = json.encoder.encode_basestring_ascii  # raises TypeError for anything but a str


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} cannot stand in a message")


def _make_dump() -> Callable[[Any], str]:
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the C accelerator
        return json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
    encode = make(None, _refuse, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    join = "".join
    return lambda value: join(encode(value, 0))


dump = _make_dump()  # any JSON value to text


def dump_float(value: float) -> str:
    """A number; also what JSON proper has no name for."""
    value = value + 0.0
    return repr(value) if value - value == 0.0 else dump(value)


def dump_sizes(values: list[int]) -> str:
    """Numbers, quicker than `dump` does it."""
    return str(values).replace(" ", "")


def _parse_int(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ProtocolError(f"a number of {len(text)} digits")
    return int(text)


def _make_scan(**options: Any) -> Callable[[str, int], tuple[Any, int]]:
    decoder: Any = json.JSONDecoder(**options)
    return decoder.scan_once  # type: ignore[no-any-return]


scan = _make_scan()  # text, start -> value, end; raises StopIteration
_scan_carefully = _make_scan(parse_int=_parse_int)


def parse_header(header: bytes) -> Any:
    """The JSON value that a header is; an empty header is an empty array. Raises ProtocolError."""
    if not header:
        return []
    try:
        text = header.decode()
        values, end = (scan if len(text) < CAREFUL_SIZE else _scan_carefully)(text, 0)
    except StopIteration:
        raise ProtocolError("the header is no JSON") from None
    except (ValueError, RecursionError) as error:  # json.JSONDecodeError, UnicodeDecodeError, a number of 4,301 digits
        raise ProtocolError(f"the header is no JSON: {error}") from None
    if end != len(text):
        raise ProtocolError("the header goes on after its JSON value")
    return values
