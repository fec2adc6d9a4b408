"""Benchmarks against what people would use instead, in the same run. `scripts/bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import execution, measurements, million, stored, systems, web
from tests.benchmarks.figures import OURS, Section, as_json, table

ALL = {
    **measurements.ALL,
    **execution.ALL,
    **million.ALL,
    "queue": stored.queue,
    "dict": stored.dictionary,
    **web.ALL,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)} (all)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--quick", action="store_true", help="one round, small numbers: to see that it works")
    parser.add_argument("--peers", default="ray,celery,dask,pool", help="who is compared with, by first words")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in ALL]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(ALL)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sections = _run(options)
    if options.json:
        described = {"machine": _machine(), "sections": [as_json(section) for section in sections]}
        options.json.write_text(json.dumps(described, indent=1) + "\n")
    return 0


def _run(options: argparse.Namespace) -> list[Section]:
    names = [name for name in ALL if not options.names or name in options.names]
    sections: list[Section] = []
    # Short: the path of a unix socket has little room, and Ray's are long.
    with tempfile.TemporaryDirectory(prefix="b-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        made: list[systems.System] = []

        def fresh(kind: type[systems.System]) -> systems.System:
            made.append(kind(folder))
            return made[-1]

        try:
            print(f"{_machine()}\n", flush=True)
            bench = measurements.Bench(
                _start(fresh, options.peers.split(",")),
                1 if options.quick else options.rounds,
                options.quick,
                folder,
                fresh,
            )
            for name in names:
                run = ALL[name]
                section = Section(name, (run.__doc__ or name).strip())
                sections.append(section)
                before = os.getloadavg()[0]
                try:
                    run(bench, section)
                except systems.DriverError as error:
                    section.notes.append(f"failed: {error}")
                section.load = (before, os.getloadavg()[0])
                print(table(section), flush=True)
        finally:
            for system in reversed(made):
                try:
                    system.stop()
                except systems.NotThereError as error:
                    print(f"{system.name}: {error}", file=sys.stderr)
    return sections


def _start(fresh: object, peers: list[str]) -> dict[str, systems.System]:
    """Who takes part, started."""
    running: dict[str, systems.System] = {}
    for kind in systems.ALL:
        if kind.name != OURS and kind.name.split()[0].lower() not in peers:
            continue
        system = fresh(kind)  # type: ignore[operator]
        try:
            system.check()
            print(f"{system.name}: started in {system.start():.2f} s", flush=True)
        except systems.NotThereError as error:
            if kind.name == OURS:
                raise SystemExit(f"{error}") from None
            print(f"{system.name}: does not take part: {error}", flush=True)
            continue
        running[system.name] = system
    time.sleep(1.0)  # what follows a start is no part of what is measured
    print(flush=True)
    return running


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, Linux {platform.release()}, Python "
        f"{platform.python_version()}, {time.strftime('%Y-%m-%d')}"
    )


if __name__ == "__main__":
    sys.exit(main())
