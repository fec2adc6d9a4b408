"""Intermodal's queues and dicts, without an app."""

import contextlib

import stored

import modal


class Entries:
    """A Dict whose `items` is a list, as the peers' are."""

    def __init__(self, entries):
        self.put, self.get, self.update = entries.put, entries.get, entries.update
        self.contains, self.pop = entries.contains, entries.pop
        self._items = entries.items

    def items(self):
        return list(self._items())


class Peer:
    def __init__(self):
        self._open = contextlib.ExitStack()
        self._stored = stored.Stored(self._opened)

    def _opened(self, kind):
        if kind == "queue":
            return self._open.enter_context(modal.Queue.ephemeral())
        return Entries(self._open.enter_context(modal.Dict.ephemeral()))

    def stored(self, kind, phase, count):
        return self._stored.phase(kind, phase, count)

    def close(self):
        self._open.close()
