"""A million spawned inputs: accepted, kept and done, the last as fast as the first, in bounded memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.benchmarks import processes
from tests.benchmarks.figures import OURS, Section
from tests.benchmarks.measurements import Bench, failures_noted

STEPS = 10


def million(bench: Bench, section: Section) -> None:
    """A million spawned inputs, all accepted before the first is done"""
    count = 20_000 if bench.quick else 1_000_000
    with failures_noted(section, bench.ours):
        server = _server_pid(bench)
        bench.ours.driver.ask("own", name="many", count=count // 100, steps=STEPS)
        before = processes.pss_mb([server])
        with Peak(server) as peak:
            took = bench.ours.driver.ask("own", name="many", count=count, steps=STEPS)
        _fill(section, took, count)
        section.measure("memory of the server before", "MB").add(OURS, before)
        section.measure("memory of the server, at most", "MB").add(OURS, peak.mb)
        store = sum(path.stat().st_size for path in bench.ours.home.path.glob("store.sqlite*")) / 1e6
        section.measure("size of the store afterwards, with its log", "MB").add(OURS, store)


def _fill(section: Section, took: dict[str, Any], count: int) -> None:
    for what in ("accepted", "done"):
        rates = [count / STEPS / (end - begin) for begin, end in zip([0.0, *took[what]], took[what], strict=False)]
        section.measure(f"{what} a second", "/s", more_is_better=True).add(OURS, count / took[what][-1])
        section.measure(f"{what} a second, last tenth : first tenth", "", more_is_better=True).add(
            OURS, rates[-1] / rates[0]
        )
        section.notes.append(f"{what} a second, by tenths: {', '.join(f'{rate:,.0f}' for rate in rates)}.")


def _server_pid(bench: Bench) -> int:
    for pid in bench.ours.pids():
        if b"intermodal.server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise AssertionError("no server runs")


class Peak:
    """The most memory of a process (MB) within the block: pages of its own, and shares of shared ones."""

    def __init__(self, pid: int) -> None:
        self.mb = 0.0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.mb = max(self.mb, processes.pss_mb([self._pid]))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


ALL = {"million": million}
