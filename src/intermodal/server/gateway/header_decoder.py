"""Heads of HTTP/2 requests (HPACK, RFC 7541), decoded once where they come again byte for byte, as they mostly do."""

from __future__ import annotations

from collections.abc import Iterable

from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from intermodal.server.gateway.request import Request

TABLE = 4096  # bytes of the table, which clients may make smaller
OVERHEAD = 32  # that each entry, and each field of a head, counts besides its strings
MOST = 16  # heads of a connection that are remembered
LONGEST = 1024  # bytes of one, encoded
FIELDS = 64  # of one
STRINGS, LONGEST_STRING = 1024, 64  # of Huffman's code that are remembered, by all connections together
INTEGER = 5  # bytes of a number behind its first
_STATIC: tuple[tuple[bytes, bytes], ...] = tuple((name, value) for name, value in HeaderTable.STATIC_TABLE)
_strings: dict[bytes, bytes] = {}


class Fields(list[tuple[bytes, bytes]]):
    """A head as it was decoded, and what was made of it for its next time."""

    __slots__ = ("request", "sound")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(fields)
        self.sound = False  # it keeps the rules of requests (see header_rules)
        self.request: Request | None = None  # what it is without a body, as long as nobody has changed it


class HeaderDecoder:
    """One for each connection: `decode` in the order in which heads come. After an error it is of no more use."""

    def __init__(self, most: int) -> None:
        """`most`: bytes of a decoded head."""
        self.entries: list[tuple[bytes, bytes]] = []  # of the table, the newest last
        self._size = 0
        self._table = TABLE
        self._most = most
        self._heads: dict[bytes, Fields] = {}  # which leave the table as it is, and hold until it changes

    def decode(self, data: bytes) -> Fields:
        """What is returned is not to be changed. Raises HPACKError: OversizedHeaderListError beyond `most`."""
        found = self._heads.get(data)
        if found is not None:
            return found
        try:
            fields, changed = self._decode(data)
        except IndexError:
            raise HPACKError("the head is cut off, or names an entry that is not there") from None
        if changed or len(self._heads) >= MOST:
            self._heads.clear()
        if not changed and len(data) <= LONGEST and len(fields) <= FIELDS:
            self._heads[data] = fields
        return fields

    def _decode(self, data: bytes) -> tuple[Fields, bool]:
        """The fields, and whether the table is another one."""
        fields = Fields(())
        changed = False
        at, end, size = 0, len(data), 0
        while at < end:
            first = data[at]
            if first & 0x80:
                index, at = (first & 0x7F, at + 1) if first != 0xFF else _integer(data, at, 7)
                field = self._entry(index)
            elif first & 0x60 == 0x20:
                if fields:
                    raise HPACKError("the table changes its size in the middle of a head")
                at = self._resize(data, at)
                changed = True
                continue
            else:
                kept = bool(first & 0x40)
                index, at = _integer(data, at, 6 if kept else 4)
                if index:
                    name = self._entry(index)[0]
                else:
                    name, at = _string(data, at)
                value, at = _string(data, at)
                field = name, value
                if kept:
                    self._add(field)
                    changed = True
            fields.append(field)
            size += len(field[0]) + len(field[1]) + OVERHEAD
            if size > self._most:
                raise OversizedHeaderListError(f"a head has more than {self._most} bytes")
        return fields, changed

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if index > len(_STATIC):
            index -= len(_STATIC)
            if index > len(self.entries):
                raise IndexError
            return self.entries[-index]
        if not index:
            raise IndexError
        return _STATIC[index - 1]

    def _add(self, field: tuple[bytes, bytes]) -> None:
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._evict(size)
        if size <= self._table:  # a larger one empties the table, and is not in it
            self.entries.append(field)
            self._size += size

    def _resize(self, data: bytes, at: int) -> int:
        size, at = _integer(data, at, 5)
        if size > TABLE:
            raise HPACKError("the table is to be larger than it may")
        self._table = size
        self._evict(0)
        return at

    def _evict(self, room: int) -> None:
        entries = self.entries
        gone = 0
        while gone < len(entries) and self._size + room > self._table:
            name, value = entries[gone]
            self._size -= len(name) + len(value) + OVERHEAD
            gone += 1
        if gone:
            del entries[:gone]


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """The number in the last bits of a byte and what follows it (5.1), and where it ends."""
    most = (1 << bits) - 1
    value = data[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * INTEGER, 7):
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HPACKError("a number is too long")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """The string (5.2), and where it ends."""
    coded = data[at] & 0x80
    size, at = _integer(data, at, 7)
    end = at + size
    if end > len(data):
        raise IndexError
    text = data[at:end]
    return (_decoded(text) if coded else text), end


def _decoded(text: bytes) -> bytes:
    found = _strings.get(text)
    if found is None:
        found = decode_huffman(text)
        if len(text) <= LONGEST_STRING:
            if len(_strings) >= STRINGS:
                _strings.clear()
            _strings[text] = found
    return found
