"""What a client does with a queue and a dict, the same for everybody. Times in seconds for one operation."""

import time

ITEM = "x" * 100
BATCH = 100
MANY = {f"key-{number}": ITEM for number in range(BATCH)}


def times(count, operation, before=None):
    """How long each of `count` operations took; what `before(number)` does is not counted."""
    clock, taken = time.perf_counter, []
    for number in range(count):
        if before is not None:
            before(number)
        began = clock()
        operation(number)
        taken.append(clock() - began)
    return taken


def queue(queue, phase, count):
    """One kind of operation; `put` comes before `get`, as often."""
    batch = [ITEM] * BATCH
    operations = {
        "put": lambda _: queue.put(ITEM),
        "get": lambda _: queue.get(),
        "put 100": lambda _: queue.put_many(batch),
        "get 100": lambda _: _whole(queue.get_many(BATCH)),
    }
    return times(count, operations[phase])


def dictionary(entries, phase, count):
    """One kind of operation."""
    operations = {
        "put": lambda number: entries.put(f"key-{number % BATCH}", ITEM),
        "get": lambda number: _there(entries.get(f"key-{number % BATCH}")),
        "contains": lambda number: _there(entries.contains(f"key-{number % BATCH}")),
        "pop": lambda number: _there(entries.pop(f"key-{number % BATCH}")),
        "update 100": lambda _: entries.update(MANY),
        "items of 100": lambda _: _whole(entries.items()),
    }
    full = (lambda number: None if number % BATCH else entries.update(MANY)) if phase != "update 100" else None
    return times(count, operations[phase], full)


def _whole(items):
    if len(items) != BATCH:
        raise RuntimeError(f"{len(items)} items of {BATCH}")


def _there(found):
    if not found:
        raise RuntimeError("an entry is not there")


class Stored:
    """What a peer keeps between the phases; `opened(kind)` gives its queue or dict, new and empty."""

    def __init__(self, opened):
        self._opened = opened
        self._used = {}

    def phase(self, kind, phase, count):
        if kind not in self._used:
            self._used[kind] = self._opened(kind)
        return {"queue": queue, "dict": dictionary}[kind](self._used[kind], phase, count)
