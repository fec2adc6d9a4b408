"""Rules of execution and what they cost: concurrent inputs, generators, retries and time limits, cancellation."""

from __future__ import annotations

import statistics

from tests.benchmarks import scheduling
from tests.benchmarks.figures import OURS, Section, percentile
from tests.benchmarks.measurements import Bench, failures_noted
from tests.benchmarks.systems import Ray, System


def concurrent(bench: Bench, section: Section) -> None:
    """No-ops on one worker that takes 100 at once, on an event loop"""
    section.notes.append("Ray: an actor with async methods and max_concurrency=100.")
    _rates(bench, section, "concurrent", "inputs a second", (50_000, 5_000))


def generator(bench: Bench, section: Section) -> None:
    """The items of one generator, small ones"""
    section.notes.append("Ray: a streaming generator of an actor.")
    _rates(bench, section, "items", "items a second", (50_000, 5_000))


def _rates(bench: Bench, section: Section, do: str, name: str, counts: tuple[int, int]) -> None:
    rate = section.measure(name, "/s", more_is_better=True)
    many, few = (count // 10 if bench.quick else count for count in counts)
    section.notes.append(f"{OURS}: {many:,}; Ray: {few:,}.")
    systems = [system for system in bench.systems.values() if system.name in (OURS, Ray.name)]
    for number in range(bench.rounds):
        for system in systems:
            with failures_noted(section, system):
                count = many if system.name == OURS else few
                if number == 0:
                    system.driver.ask(do, count=few // 10)
                rate.add(system.name, count / system.driver.ask(do, count=count))


def rules(bench: Bench, section: Section) -> None:
    """What retries and a time limit cost inputs that need neither, and how quick a cancellation is"""
    ours: System = bench.ours
    count = 10_000 if bench.quick else 50_000
    plain = section.measure("inputs a second", "/s", more_is_better=True)
    with failures_noted(section, ours):
        for do in ("map", "careful"):
            ours.driver.ask(do, count=count // 10)
        for _ in range(bench.rounds):
            # "Us" are the inputs with the rules, the peer is the same without them.
            plain.add(OURS, count / ours.driver.ask("careful", count=count))
            plain.add("without retries and time limit", count / ours.driver.ask("map", count=count))
        times = ours.driver.ask("own", name="cancel", count=3 if bench.quick else 20)
        for percent in (50, 99):
            measure = section.measure(f"cancelled, until the container has run another input, p{percent}", "ms")
            measure.add(OURS, percentile(times, percent) * 1e3)


def scheduler(bench: Bench, section: Section) -> None:
    """What the scheduler costs an input, as functions and waiting inputs become many"""
    first = 0.0
    for functions, pending, found in scheduling.samples(bench.quick):
        what = f"{functions:,} functions, {pending:,} inputs wait"
        ratio = statistics.median(ours / bare for ours, bare in found)
        first = first or ratio
        for ours, _bare in found:
            section.measure(what, "µs an input").add(OURS, ours * 1e6)
        section.measure(f"{what}: times the first of these rows", "").add(OURS, ratio / first)
    section.notes.append("The second figure of each pair is corrected by what a bare queue took at the same moment.")


ALL = {"concurrent": concurrent, "generator": generator, "rules": rules, "scheduler": scheduler}
