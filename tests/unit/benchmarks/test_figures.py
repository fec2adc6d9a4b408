"""The benchmarks' arithmetic, and what they read of /proc."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.benchmarks import processes
from tests.benchmarks.figures import OURS, Measure, Section, as_json, compared, percentile, shown, table
from tests.benchmarks.measurements import breakdown


def test_percentiles_are_samples() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert percentile(samples, 50) == 50
    assert percentile(samples, 99) == 99
    assert percentile([3.0], 99) == 3


def test_ratio_compares_rounds_with_each_other() -> None:
    measure = Measure("p50", "ms")
    for ours, peer in ((1.0, 2.0), (10.0, 20.0), (2.0, 2.0)):  # a disturbed round disturbs both
        measure.add(OURS, ours)
        measure.add("Ray", peer)
    assert measure.ratio("Ray") == 0.5
    assert compared(measure, "Ray") == "2.00 times better"
    assert compared(measure, OURS) == ""
    assert measure.ratio("Dask") is None


def test_more_is_better_where_it_is() -> None:
    rate = Measure("rate", "/s", more_is_better=True)
    rate.add(OURS, 500)
    rate.add("Ray", 1000)
    assert compared(rate, "Ray") == "2.00 times worse"


def test_figures_have_the_digits_that_mean_something() -> None:
    assert [shown(value) for value in (25_123.4, 123.4, 12.34, 0.371, 0.0123)] == [
        "25,123", "123", "12.3", "0.37", "0.012",
    ]  # fmt: skip


def test_table_is_markdown_with_us_first() -> None:
    section = Section("call", "A call")
    measure = section.measure("p50", "ms")
    measure.add("Ray", 1.0)
    measure.add(OURS, 0.5)
    section.notes.append("said")
    lines = table(section).splitlines()
    assert section.measure("p50", "ms") is measure
    assert lines[0] == "### A call"
    rows = [line for line in lines if line.startswith("|")]
    assert [row.split("|")[2].strip() for row in rows[2:]] == [OURS, "Ray"]
    assert "2.00 times better" in rows[3]
    assert lines[-1] == "- said"
    assert as_json(section)["measures"][0]["ratios"] == {"Ray": 0.5}


def test_breakdown_orders_steps_by_time() -> None:
    starts = [{"ready": 30.0, "asked": 1.0}, {"ready": 50.0, "asked": 3.0}, {"ready": 40.0, "asked": 2.0}]
    assert breakdown(starts) == ["    2.0 ms  (+  2.0)  asked", "   40.0 ms  (+ 38.0)  ready"]


def test_stat_with_any_name() -> None:
    tick = processes.TICK
    line = f"7 (a) b ) S 3 7 9 0 -1 0 0 0 0 0 {2 * tick} {tick} {5 * tick} 0 20 0 1 0"
    assert processes.parse_stat(line) == processes.Stat("S", 3, 9, processes.Cpu(3.0, 5.0))


def test_processes_are_found_and_ended() -> None:
    mark = f"test-{os.getpid()}"
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], env={})"
    with subprocess.Popen(
        [sys.executable, "-c", f"print(1, flush=True); {code}"],
        env={processes.MARK: mark}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        parent.stdout.readline()
        sessions: set[int] = set()
        while len(found := processes.belonging(mark, sessions)) < 2:
            assert parent.poll() is None
        assert parent.pid in found
        assert parent.pid in sessions
        assert processes.pss_mb(found) > 1
        processes.end(found)
        assert parent.wait(10) == -15
    assert processes.belonging(mark, sessions) == []
