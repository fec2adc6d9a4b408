"""One dict as far as it is in memory: entries that were used lately, and what the store does not know yet."""

from __future__ import annotations

from operator import itemgetter
from typing import Final, NamedTuple

from intermodal.server.store.dicts import DictChanges, Entry

MAX_ENTRY = 64 << 10  # bytes of a value that stays here when the store has it
_OVERHEAD = 300  # bytes of an entry besides key and value
_key_of = itemgetter(0)


class Unknown:
    """What is to be said of a key that only the store knows of."""


UNKNOWN: Final = Unknown()
Known = Entry | None | Unknown  # None: there is no such entry


class Memory:
    """What all tables together take, in bytes."""

    def __init__(self) -> None:
        self.used = 0


class Undo(NamedTuple):
    """A change of some keys: what they have now, what was known of them, and the tokens that `changed` had."""

    keys: list[bytes]
    after: list[Entry | None]
    before: list[Known]
    changed: list[bytes | None]


class Table:
    __slots__ = (
        "blobs",
        "changed",
        "cleared",
        "collected",
        "complete",
        "gone",
        "known",
        "latest",
        "memory",
        "moved",
        "number",
        "pending",
        "settlements",
    )  # fmt: skip

    def __init__(self, number: int, memory: Memory, blobs: bool) -> None:
        self.number = number
        self.memory = memory
        self.blobs = blobs  # it holds, or has held, large values
        self.known: dict[bytes, Entry | None] = {}
        self.complete = False  # what is not in `known` is not there
        self.changed: dict[bytes, bytes] = {}  # keys that the store does not know the latest of -> token of the request
        self.cleared = False  # all that the store has is gone
        self.gone: list[str] = []  # large values that were replaced before the store heard of them
        self.moved: set[str] = set()  # large values that were popped
        self.pending: dict[bytes, bytes] = {}  # what was `changed` and is on its way to the store
        self.collected = False  # something is on its way
        self.settlements = 0
        self.latest = 0  # number of its last change

    def get(self, key: bytes) -> Known:
        """What there is under this key."""
        found: Known = self.known.get(key, UNKNOWN)
        return None if found is UNKNOWN and self.complete else found

    @property
    def settled(self) -> bool:
        """The store knows all of it."""
        return not (self.changed or self.cleared or self.collected)

    # -- of a dict that is wholly in memory (`complete`)
    def page(
        self, after: bytes, cutoff: float, values: bool, limit: int, limit_bytes: int
    ) -> tuple[list[tuple[bytes, Entry]], bool]:
        """The entries behind the key `after`, in the order of keys, and whether there are more.

        As DictStore.after: those used since `cutoff`, at most `limit`, and no more bytes than asked for, where that
        is not a single entry. Values count only where they are asked for.
        """
        found = [
            (key, entry)
            for key, entry in self.known.items()
            if entry is not None and key > after and entry.used_at >= cutoff
        ]
        found.sort(key=_key_of)
        page = found[:limit]
        if sum([len(key) + len(entry.value) for key, entry in page]) > limit_bytes:
            size = 0
            for index, (key, entry) in enumerate(page):
                size += len(key) + (len(entry.value) if values else 0)
                if size > limit_bytes and index:
                    return page[:index], True
        return page, len(found) > limit

    def count(self, cutoff: float) -> int:
        """How many entries were used since `cutoff`."""
        return sum(entry is not None and entry.used_at >= cutoff for entry in self.known.values())

    # -- changes
    def put(self, keys: list[bytes], entries: list[Entry], token: bytes) -> Undo:
        """Write them; how to `restore` what was there."""
        known, changed = self.known, self.changed
        otherwise: Known = None if self.complete else UNKNOWN
        before: list[Known] = [known.get(key, otherwise) for key in keys]
        undo = Undo(keys, [*entries], before, [changed.get(key) for key in keys])
        replaced = [old for old in before if type(old) is Entry]
        used = sum([len(entry.value) for entry in entries]) - sum([len(old.value) for old in replaced])
        if len(replaced) < len(keys):
            new = [key for key, old in zip(keys, before, strict=True) if type(old) is not Entry]
            used += _OVERHEAD * len(new) + sum(map(len, new))
        if self.blobs:
            for old, was_changed in zip(before, undo.changed, strict=True):
                if type(old) is Entry and old.blob and was_changed is not None:
                    self.gone.append(old.blob)
        known.update(zip(keys, entries, strict=True))
        changed.update(dict.fromkeys(keys, token))
        self.memory.used += used
        return undo

    def remove(self, key: bytes, entry: Entry, token: bytes) -> Undo:
        """As `put` of nothing. Where the entry has a large value, that goes on elsewhere."""
        before: Known = self.known.get(key, UNKNOWN)
        undo = Undo([key], [None], [before], [self.changed.get(key)])
        if isinstance(before, Entry):
            self.memory.used -= _size(key, before)
        if entry.blob:
            self.moved.add(entry.blob)
        self.known[key] = None
        self.changed[key] = token
        return undo

    def restore(self, undo: Undo) -> None:
        """This could not be noted. What was changed once more stays."""
        for key, after, before, changed in zip(*undo, strict=True):
            if self.known.get(key, UNKNOWN) is not after:
                continue
            if isinstance(before, Unknown):
                if key in self.changed:  # else the store has it by now
                    self._drop(key)
                    del self.changed[key]
                continue
            self.memory.used += _size(key, before) - _size(key, after)
            self.known[key] = before
            if changed is not None or key not in self.changed:
                self.changed[key] = changed or b""  # the store has to be told
            else:
                del self.changed[key]

    def clear(self) -> None:
        """Remove all."""
        self.gone += [entry.blob for key in self.changed if isinstance(entry := self.known[key], Entry) and entry.blob]
        self.forget()
        self.changed = {}
        self.cleared = self.complete = True

    def forget(self) -> None:
        """It is no longer in memory."""
        self.memory.used -= sum(_size(key, entry) for key, entry in self.known.items())
        self.known = {}

    def touched(self, key: bytes, entry: Entry, used_at: float) -> None:
        """It was read."""
        if self.known.get(key) is entry:
            self.known[key] = entry._replace(used_at=used_at)

    # -- to the store
    def collect(self) -> DictChanges:
        """What the store does not know; `stored` says that it does."""
        rows, removed = [], []
        for key, token in self.changed.items():
            entry = self.known[key]
            if entry is None:
                removed.append(key)
            else:
                rows.append((key, entry.value, entry.blob, entry.size, token, entry.used_at))
        changes = DictChanges(self.number, self.cleared, self.blobs, rows, removed, self.gone, self.moved)
        self.pending, self.changed = self.changed, {}
        self.cleared, self.collected = False, True
        self.gone, self.moved = [], set()
        return changes

    def stored(self) -> None:
        """What was collected is in the store: what is large need not be here too."""
        for key in self.pending:
            if key in self.changed or key not in self.known:
                continue
            entry = self.known[key]
            if entry is None:
                del self.known[key]
            elif len(entry.value) > MAX_ENTRY:
                self._drop(key)
        self.pending = {}
        self.collected = False
        self.settlements += 1

    # -- from the store
    def learn(self, rows: list[tuple[bytes, Entry]], complete: bool = False) -> None:
        """These are in the store; `complete`: and nothing else."""
        for key, entry in rows:
            if len(entry.value) > MAX_ENTRY:
                complete = False
            elif key not in self.known:
                self.known[key] = entry
                self.memory.used += _size(key, entry)
        self.complete = self.complete or complete

    def shrink(self, limit: int) -> None:
        """Drop what the store has too, until all tables together take no more than so many bytes."""
        for key in [key for key in self.known if key not in self.changed and key not in self.pending]:
            if self.memory.used <= limit:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self.memory.used -= _size(key, self.known.pop(key))
        self.complete = False


def _size(key: bytes, entry: Entry | None) -> int:
    return 0 if entry is None else _OVERHEAD + len(key) + len(entry.value)
