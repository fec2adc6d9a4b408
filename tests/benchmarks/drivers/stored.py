"""What a client does with a queue and a dict, the same for everybody. Times in seconds for one operation."""

import time

ITEM = "x" * 100
BATCH = 100


def times(count, operation):
    """How long each of `count` operations took."""
    clock, taken = time.perf_counter, []
    for number in range(count):
        began = clock()
        operation(number)
        taken.append(clock() - began)
    return taken


def queue(queue, count):
    """Puts, gets, and both in batches of 100."""
    batch = [ITEM] * BATCH
    taken = {"put": times(count, lambda _: queue.put(ITEM)), "get": times(count, lambda _: queue.get())}
    batches = max(3, count // 10)
    taken["put 100"] = times(min(batches, 40), lambda _: queue.put_many(batch))
    taken["get 100"] = times(min(batches, 40), lambda _: _whole(queue.get_many(BATCH)))
    return taken


def _whole(items):
    if len(items) != BATCH:
        raise RuntimeError(f"{len(items)} items of {BATCH}")


def dictionary(entries, count):
    """Writes, reads, updates with 100 entries, and all of 100 entries at once."""
    many = {f"key-{number}": ITEM for number in range(BATCH)}
    batches = min(40, max(3, count // 10))
    taken = {"update 100": times(batches, lambda _: entries.update(many))}
    taken["items of 100"] = times(batches, lambda _: _whole(entries.items()))
    taken["put"] = times(count, lambda number: entries.put(f"key-{number % BATCH}", ITEM))
    taken["get"] = times(count, lambda number: entries.get(f"key-{number % BATCH}"))
    return taken
