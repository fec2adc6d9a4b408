"""Heads of HTTP/2 requests are decoded once where they come again byte for byte, as those of one client mostly do."""

from __future__ import annotations

from collections.abc import Iterable

from hpack import Decoder
from hpack.struct import HeaderTuple

MOST = 16  # heads of a connection that are remembered
LONGEST = 1024  # bytes of one, encoded
FIELDS = 64  # of one


class CachingDecoder(Decoder):
    """A head that leaves the connection's table as it was means the same until the table changes."""

    def __init__(self) -> None:
        super().__init__()
        self._heads: dict[bytes, list[HeaderTuple]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """See hpack.Decoder. What is returned is not to be changed."""
        found = self._heads.get(data)
        if found is not None and raw:
            return found
        table = self.header_table
        entries = table.dynamic_entries
        before = (len(entries), entries[0] if entries else None, table.maxsize)
        fields = list(super().decode(data, raw))
        # Whatever is added stands at the front, as a new object; what only shrinks has another length or size.
        entries = table.dynamic_entries
        changed = (
            len(entries) != before[0]
            or (entries[0] if entries else None) is not before[1]
            or table.maxsize != before[2]
        )
        if changed or len(self._heads) >= MOST:
            self._heads.clear()
        if not changed and raw and len(data) <= LONGEST and len(fields) <= FIELDS:
            self._heads[bytes(data)] = fields
        return fields
