"""Heads of responses for HTTP/2 (HPACK, RFC 7541): what a connection has sent before is a number from then on.

Strings go out as they are: Huffman's code costs more than it saves here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hpack.table import HeaderTable

TABLE = 4096  # bytes of the table, at most; clients may want less
OVERHEAD = 32  # that each entry counts besides its strings
LONGEST = 512  # bytes of an entry
STATIC = len(HeaderTable.STATIC_TABLE)
# What differs from one response to the next, or tells secrets, is not worth an entry.
_PASSING = frozenset(
    (b"content-length", b"set-cookie", b"etag", b"last-modified", b"location", b"content-range", b"age")
)
_STATIC: dict[tuple[bytes, bytes], bytes] = {}  # whole fields
_STATIC_NAMES: dict[bytes, int] = {}
_NUMBERS = [bytes((0x80 | index,)) for index in range(127)]  # indexed fields
_passing: dict[bytes, bytes] = {}  # name -> how a field that is not remembered begins


def integer(value: int, bits: int, first: int) -> bytes:
    """RFC 7541, 5.1, in the last bits of a byte that begins with `first`."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out = bytearray((first | most,))
    value -= most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _string(data: bytes) -> bytes:
    return (bytes((len(data),)) if len(data) < 127 else integer(len(data), 7, 0)) + data


for _index, (_name, _value) in enumerate(HeaderTable.STATIC_TABLE, 1):
    _STATIC_NAMES.setdefault(_name, _index)
    if _value:
        _STATIC[_name, _value] = integer(_index, 7, 0x80)


class HeaderEncoder:
    """One for each connection: `encode` in the order in which heads are sent."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, bytes], int] = {}  # field -> how many came before it
        self._entries: deque[tuple[tuple[bytes, bytes], int]] = deque()  # with their sizes, the oldest first
        self._added = 0
        self._size = 0
        self._most = TABLE
        self._updates: list[int] = []  # sizes of the table that the client has to hear of

    def resize(self, size: int) -> None:
        """The client's table holds so many bytes."""
        size = min(size, TABLE)
        if size != self._most:
            self._most = size
            self._updates.append(size)
            self._evict(0)

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Names in lower case."""
        parts = []
        if self._updates:
            # The smallest one says what was thrown away, the last one what holds now.
            parts += [integer(size, 5, 0x20) for size in dict.fromkeys((min(self._updates), self._updates[-1]))]
            self._updates.clear()
        numbers = self._numbers
        for field in fields:
            number = numbers.get(field)
            if number is not None:
                index = STATIC + self._added - number
                parts.append(_NUMBERS[index] if index < 127 else integer(index, 7, 0x80))
                continue
            known = _STATIC.get(field)
            parts.append(known if known is not None else self._literal(field))
        return b"".join(parts)

    def _literal(self, field: tuple[bytes, bytes]) -> bytes:
        name, value = field
        size = len(name) + len(value) + OVERHEAD
        if name in _PASSING or size > LONGEST or size > self._most:
            begin = _passing.get(name)
            if begin is None:
                index = _STATIC_NAMES.get(name)
                begin = integer(index, 4, 0) if index is not None else b"\0" + _string(name)
                if len(_passing) < 1000:
                    _passing[name] = begin
            return begin + _string(value)
        index = _STATIC_NAMES.get(name)
        self._evict(size)
        self._numbers[field] = self._added
        self._entries.append((field, size))
        self._added += 1
        self._size += size
        return (integer(index, 6, 0x40) if index is not None else b"\x40" + _string(name)) + _string(value)

    def _evict(self, room: int) -> None:
        while self._entries and self._size + room > self._most:
            field, size = self._entries.popleft()
            del self._numbers[field]
            self._size -= size
