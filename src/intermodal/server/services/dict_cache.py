"""Entries of dicts that were read or written lately, so that reading them again costs no query."""

from __future__ import annotations

from collections import OrderedDict

from intermodal.server.store.dicts import Entry

MAX_BYTES = 32 << 20
MAX_ENTRY = 64 << 10  # bytes of a value that is kept here
_OVERHEAD = 300  # bytes of an entry besides key and value

Name = tuple[int, bytes]  # number of the dict, key


class DictCache:
    """Never older than what a reader may have seen: while a dict is being written it has no entries here."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Name, Entry] = OrderedDict()
        self._bytes = 0
        self._writing: dict[int, int] = {}  # dict -> writes on their way
        self._changes: dict[int, int] = {}  # dict -> counts up with each write that begins

    def get(self, name: Name) -> Entry | None:
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def reading(self, number: int) -> int:
        """Before a query: what to show `read` with its result."""
        return self._changes.get(number, 0)

    def read(self, name: Name, entry: Entry, since: int) -> None:
        """A query has found this."""
        if name[0] not in self._writing and self._changes.get(name[0], 0) == since:
            self._put(name, entry)

    def begin(self, number: int, keys: list[bytes]) -> None:
        """These entries are being changed; no keys: all of them."""
        self._writing[number] = self._writing.get(number, 0) + 1
        self._changes[number] = self._changes.get(number, 0) + 1
        for name in [(number, key) for key in keys] if keys else [name for name in self._entries if name[0] == number]:
            self._drop(name)

    def end(self, number: int, entries: list[tuple[bytes, Entry]]) -> None:
        """The change is on the disk; what it wrote."""
        left = self._writing[number] - 1
        if left:
            self._writing[number] = left
            return
        del self._writing[number]
        for key, entry in entries:
            self._put((number, key), entry)

    def touched(self, name: Name, used_at: float) -> None:
        entry = self._entries.get(name)
        if entry is not None:
            self._entries[name] = entry._replace(used_at=used_at)

    def _put(self, name: Name, entry: Entry) -> None:
        self._drop(name)
        if len(entry.value) > MAX_ENTRY:
            return
        self._entries[name] = entry
        self._bytes += len(name[1]) + len(entry.value) + _OVERHEAD
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._entries)))

    def _drop(self, name: Name) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._bytes -= len(name[1]) + len(entry.value) + _OVERHEAD
