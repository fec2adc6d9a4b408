"""What the scheduler costs an input, as functions and waiting inputs become many, beside a bare queue in the same run.

    python -m tests.benchmarks.scheduling [--quick]

One input goes in, one ends, and the next is assigned: prints microseconds for that, and the ratio to putting an object
into an OrderedDict, taking the oldest out and noting it elsewhere. No I/O, no clock but the one that measures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import OrderedDict
from collections.abc import Iterator

from intermodal.server.scheduler import Assign, Capacity, Request, Rules, Scheduler, Start

FUNCTIONS = (10, 1_000, 10_000)
PENDING = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS = 5


def world(functions: int, pending: int) -> tuple[Scheduler, list[str]]:
    """A function at work in two containers, with so many inputs waiting, among others that are deployed and idle."""
    numbers = itertools.count()
    scheduler = Scheduler(lambda: f"ta-{next(numbers)}", Capacity(1.0))
    scheduler.capacity.add("wo-0", 64.0, 1 << 20)
    for number in range(functions - 1):
        scheduler.put_function(f"other{number}", "ap-2", Rules(), 0.0)
    scheduler.put_function("f", "ap-1", Rules(max_containers=2, prefetch=False, request=Request(0.1, 10)), 0.0)
    scheduler.enqueue("f", [object() for _ in range(pending)], 0.0)
    started = [one.container_id for one in scheduler.decisions if isinstance(one, Start)]
    for container_id in started:
        scheduler.container_ready(container_id, 0.0)
    return scheduler, started


def ours(scheduler: Scheduler, started: list[str], count: int) -> float:
    """Seconds an input."""
    held = {slot: list(scheduler.slots[slot].inputs) for slot in started}
    scheduler.decisions.clear()
    now = 1.0
    began = time.perf_counter()
    for turn in range(count):
        container_id = started[turn % len(started)]
        now += 0.0001
        scheduler.enqueue("f", (object(),), now)
        scheduler.finished(container_id, held[container_id], now, 0.0001)
        for decision in scheduler.decisions:
            if type(decision) is Assign:
                held[decision.container_id] = decision.inputs
        scheduler.decisions.clear()
        if now >= scheduler.due:
            scheduler.tick(now)
            scheduler.decisions.clear()
    return (time.perf_counter() - began) / count


def bare(pending: int, count: int) -> float:
    """Seconds an input of a queue that decides nothing."""
    queue: OrderedDict[object, None] = OrderedDict((object(), None) for _ in range(pending))
    running: dict[object, float] = {}
    began = time.perf_counter()
    for turn in range(count):
        queue[object()] = None
        item, _nothing = queue.popitem(False)
        running[item] = turn
        del running[item]
    return (time.perf_counter() - began) / count


def samples(quick: bool) -> Iterator[tuple[int, int, list[tuple[float, float]]]]:
    """Functions, inputs that wait, and for each round the seconds of an input: ours, and those of a bare queue."""
    count, rounds = (500, 1) if quick else (20_000, ROUNDS)
    cases = [(number, 1_000) for number in FUNCTIONS] + [(10, number) for number in PENDING[1:]]
    if quick:
        cases = cases[:2]
    for functions, pending in cases:
        scheduler, started = world(functions, pending)
        yield functions, pending, [(ours(scheduler, started, count), bare(pending, count)) for _ in range(rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it works")
    for functions, pending, found in samples(parser.parse_args().quick):
        figure = statistics.median(sample[0] for sample in found)
        ratio = statistics.median(one / other for one, other in found)
        row = {
            "functions": functions,
            "pending": pending,
            "microseconds": round(figure * 1e6, 2),
            "ratio": round(ratio, 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
