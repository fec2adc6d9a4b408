"""The benchmarks. Each gets the systems that run and fills a section; rounds are interleaved between systems."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import images, processes, volumes
from tests.benchmarks.figures import OURS, Section, percentile
from tests.benchmarks.systems import (
    HERE,
    PEERS_PYTHON,
    ROOT,
    Celery,
    Dask,
    DriverError,
    Intermodal,
    NotThereError,
    Pool,
    Ray,
    System,
)

MB = 1_000_000


@dataclass
class Bench:
    """What a benchmark needs: the systems that take part, and how much it may do."""

    systems: dict[str, System]
    rounds: int
    quick: bool
    folder: Path
    fresh: Callable[[type[System]], System]  # another instance, not started

    @property
    def ours(self) -> Intermodal:
        system = self.systems[OURS]
        assert isinstance(system, Intermodal)
        return system

    def each(self, section: Section, rounds: int = 0) -> Iterator[tuple[int, System]]:
        """All systems in turn, as often as there are rounds; who fails once is out of this section."""
        for number in range(rounds or self.rounds):
            for system in self.systems.values():
                if not any(note.startswith(f"{system.name} failed") for note in section.notes):
                    yield number, system


@contextmanager
def failures_noted(section: Section, system: System) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        section.notes.append(f"{system.name} failed: {error}")


def started(bench: Bench, section: Section, kinds: Iterable[type[System]]) -> dict[str, System]:
    """Systems that take part in one section alone, started; who uses them stops them."""
    running: dict[str, System] = {}
    for kind in kinds:
        system = bench.fresh(kind)
        try:
            system.check()
            system.start()
        except NotThereError as error:
            section.notes.append(f"{kind.name} does not take part: {error}")
            continue
        running[system.name] = system
    return running


def call(bench: Bench, section: Section) -> None:
    """A no-op call to a warm worker"""
    p50 = section.measure("p50", "ms")
    p99 = section.measure("p99", "ms")
    count = 200 if bench.quick else 2000
    for system in bench.systems.values():
        with failures_noted(section, system):
            system.driver.ask("calls", count=100)
    for _, system in bench.each(section, bench.rounds * 2):
        with failures_noted(section, system):
            # Slow ones make fewer calls a round: the time of a round is what they share.
            fewer = 1 if system.name in (OURS, Ray.name, Pool.name) else 10
            times = system.driver.ask("calls", count=count // fewer)
            p50.add(system.name, percentile(times, 50) * 1e3)
            p99.add(system.name, percentile(times, 99) * 1e3)


def map_(bench: Bench, section: Section) -> None:
    """A map of no-ops over two workers"""
    rate = section.measure("inputs a second", "/s", more_is_better=True)
    many, few = (10_000, 1_000) if bench.quick else (100_000, 10_000)
    section.notes.append(f"{OURS}: {many:,} inputs a map; peers: {few:,}.")
    for number, system in bench.each(section):
        with failures_noted(section, system):
            count = many if system.name == OURS else few
            if number == 0:
                system.driver.ask("map", count=few // 10)
            if system.name == OURS:
                _map_with_memory(bench, section, count)
            else:
                rate.add(system.name, count / system.driver.ask("map", count=count))


def _map_with_memory(bench: Bench, section: Section, count: int) -> None:
    driver, pids = bench.ours.driver, bench.ours.pids()
    rate = section.measure("inputs a second", "/s", more_is_better=True)
    before = (processes.pss_mb([driver.pid]), processes.pss_mb(pids))
    took, client, server = _peaks(lambda: driver.ask("map", count=count), [driver.pid], pids)
    rate.add(OURS, count / took)
    section.measure("memory of the client, growth within the map", "MB").add(OURS, client - before[0])
    section.measure("memory of server and worker, growth within the map", "MB").add(OURS, server - before[1])
    took = driver.ask("map", count=count, order_outputs=False)
    section.measure("inputs a second, order_outputs=False", "/s", more_is_better=True).add(OURS, count / took)


def _peaks(action: Callable[[], float], *groups: list[int]) -> tuple[float, ...]:
    """What the action returned, and the most memory (MB) of each group of processes meanwhile."""
    peaks = [0.0] * len(groups)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            for number, pids in enumerate(groups):
                peaks[number] = max(peaks[number], processes.pss_mb(pids))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        result = action()
    finally:
        over.set()
        thread.join()
    return (result, *peaks)


def spawn(bench: Bench, section: Section) -> None:
    """Work that nobody waits for: accepted, and done later"""
    accept = section.measure("accepted a second", "/s", more_is_better=True)
    drain = section.measure("accepted and done a second", "/s", more_is_better=True)
    many, few = (10_000, 500) if bench.quick else (100_000, 5_000)
    section.notes.append(
        f"{OURS}: spawn_map of {many:,}, on disk when it returns; Celery: {few:,} tasks in Redis' memory."
    )
    for _, system in bench.each(section):
        if system.name in (OURS, Celery.name):
            with failures_noted(section, system):
                count = many if system.name == OURS else few
                took = system.driver.ask("own", name="queue", count=count)
                accept.add(system.name, count / took["accept"])
                drain.add(system.name, count / took["drain"])


def payload(bench: Bench, section: Section) -> None:
    """Large arguments and results (bytes)"""
    for size in (1, 100):
        for _ in range(2):  # the first round warms up
            for system in bench.systems.values():
                if size == 1 or system.name != Celery.name:
                    with failures_noted(section, system):
                        system.driver.ask("send", size=MB)
                        system.driver.ask("fetch", size=size * MB)
        for _, system in bench.each(section, bench.rounds * (10 if size == 1 else 2)):
            if size == 100 and system.name == Celery.name:
                continue  # seconds each, and it keeps a gigabyte afterwards
            with failures_noted(section, system):
                for do, what in (("send", "argument"), ("fetch", "result")):
                    took = system.driver.ask(do, size=size * MB)
                    section.measure(f"{size} MB {what}", "ms").add(system.name, took * 1e3)
    section.notes.append("Celery takes part with 1 MB alone: 100 MB take it seconds.")


def cold(bench: Bench, section: Section) -> None:
    """Cold start: a call whose container has to be started, its image there"""
    total = section.measure("call to result", "ms")
    starts: list[dict[str, float]] = []
    bench.ours.driver.ask("fresh")  # the app's source becomes a layer once
    for _, system in bench.each(section, 3 if bench.quick else bench.rounds * 5):
        if system.name in (Celery.name, Dask.name):
            continue
        with failures_noted(section, system):
            if system.name == OURS:
                starts.append(system.driver.ask("own", name="cold"))
                total.add(OURS, starts[-1]["result here"])
            else:
                total.add(system.name, system.driver.ask("fresh") * 1e3)
    section.notes += ["Ray: a new actor. Pool: an executor of one process, spawned.", *breakdown(starts)]


def breakdown(starts: list[dict[str, float]]) -> list[str]:
    """Where each millisecond goes: the median instant of each step, and how long after the one before."""
    names = {name for start in starts for name in start}
    medians = {name: statistics.median(start[name] for start in starts if name in start) for name in names}
    lines, last = [], 0.0
    for name, at in sorted(medians.items(), key=lambda item: item[1]):
        lines.append(f"{at:7.1f} ms  (+{at - last:5.1f})  {name.strip()}")
        last = at
    return lines


def import_(bench: Bench, section: Section) -> None:
    """Import time in a fresh process"""
    took = section.measure("import", "ms")
    cases = [(OURS, sys.executable, "modal"), ("modal.cli", sys.executable, "modal.cli")]
    for name, module in ((Ray.name, "ray"), (Celery.name, "celery"), (Dask.name, "dask.distributed")):
        if name in bench.systems:
            cases.append((name, str(PEERS_PYTHON), module))
    cases += [(Pool.name, sys.executable, "concurrent.futures.process"), ("asyncio", sys.executable, "asyncio")]
    for number in range(1 + (3 if bench.quick else bench.rounds * 5)):
        for who, python, module in cases:
            code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
            done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=HERE)
            if number:
                took.add(who, float(done.stdout) * 1e3)


def run(bench: Bench, section: Section) -> None:
    """From the command to the first result"""
    first = section.measure("first result", "s")
    whole = section.measure("until the command has ended", "s")
    programs = HERE / "programs"
    ours = bench.ours
    cases: list[tuple[str, System, list[str]]] = [
        (OURS, ours, [str(Path(sys.executable).with_name("modal")), "run", str(ROOT / "examples" / "hello_world.py")])
    ]
    for system in bench.systems.values():
        python = str(system.python)
        if isinstance(system, Ray):
            address = f"127.0.0.1:{system.port}"
            cases.append(("Ray, running cluster", system, [python, str(programs / "first_ray_running.py"), address]))
            local = str(bench.folder / "r")
            cases.append(("Ray, ray.init()", system, [python, str(programs / "first_ray_local.py"), local]))
        elif isinstance(system, Dask):
            cases.append(("Dask, LocalCluster", system, [python, str(programs / "first_dask.py")]))
        elif isinstance(system, Celery):
            cases.append(("Celery, running worker", system, [python, str(programs / "first_celery.py")]))
        elif isinstance(system, Pool):
            cases.append((Pool.name, system, [python, str(programs / "first_pool.py")]))
    for number in range(1 + (1 if bench.quick else bench.rounds)):
        for who, system, command in cases:
            times = _first_line(command, {**system.env, processes.MARK: system.mark + "-client"})
            if number:
                first.add(who, times[0])
                whole.add(who, times[1])
    section.notes.append(
        f"{OURS}: `modal run examples/hello_world.py`, server up: one call, then a map of 20 with logs."
    )


def _first_line(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds until a line with a result came, and until the end."""
    began = time.perf_counter()
    first = 0.0
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=HERE,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if not first and ("result" in line or "in a container:" in line):
                first = time.perf_counter() - began
    if process.returncode or not first:
        raise DriverError(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(said)}")
    return first, time.perf_counter() - began


def idle(bench: Bench, section: Section) -> None:
    """A system that waits: memory and processor"""
    seconds = 3.0 if bench.quick else 10.0
    memory = section.measure("memory (PSS)", "MB")
    cpu = section.measure("processor", "% of a core")
    systems = [system for system in bench.systems.values() if system.name != Pool.name]
    for _ in range(bench.rounds):
        pids = {system.name: system.pids() for system in systems}
        before = {name: processes.cpu_seconds(found).own for name, found in pids.items()}
        time.sleep(seconds)
        for name, found in pids.items():
            cpu.add(name, (processes.cpu_seconds(found).own - before[name]) / seconds * 100)
        for name, found in pids.items():
            memory.add(name, processes.pss_mb(found))
    counts = ", ".join(f"{system.name} {len(system.pids())}" for system in systems)
    section.notes.append(
        f"All at the same time, {seconds:.0f} s a round, before any client has connected. Processes: {counts}."
    )


def burst(bench: Bench, section: Section) -> None:
    """Many containers of one function at once"""
    count = 10 if bench.quick else 100
    ours = bench.ours
    ours.driver.ask("fresh")
    server = ours.pids()
    before, busy, began = processes.cpu_seconds(server), processes.machine_busy(), time.perf_counter()
    starts = ours.driver.ask("own", name="burst", count=count)
    took = time.perf_counter() - began
    used, busy = processes.cpu_seconds(server) - before, processes.machine_busy() - busy
    runners = processes.cpu_seconds(_runners())
    memory = processes.pss_mb(_runners()) / max(1, len(_runners()))
    ours.driver.ask("own", name="burst_end")
    ready = [start["runner ready"] for start in starts if "runner ready" in start]
    section.measure(f"{count} containers, until the last one runs", "s").add(OURS, max(ready) / 1e3)
    section.measure("until half of them run", "s").add(OURS, percentile(ready, 50) / 1e3)
    section.measure("memory of one container's process", "MB").add(OURS, memory)
    cores = len(os.sched_getaffinity(0))
    section.notes += [
        f"Processor seconds in these {took:.1f} s on {cores} cores: whole machine {busy:.1f}; server and worker "
        f"{used.own:.1f}; crun and other commands of the worker {used.children:.1f}; the containers' own processes "
        f"{runners.own:.1f}. One container: {busy / count * 1e3:.0f} ms of a core.",
        "Steps of a container in the middle of the burst (median), ms since the call:",
        *breakdown(starts),
    ]
    ray = bench.systems.get(Ray.name)
    if ray is not None:
        few = 4 if bench.quick else 20
        began = time.perf_counter()
        ray.driver.ask("own", name="many", count=few)
        section.measure(f"{few} actors, until the last one answers", "s").add(Ray.name, time.perf_counter() - began)


def _runners() -> list[int]:
    """The processes of containers of this machine's workers."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"intermodal/runner/start.py" in command and b"python" in command.split(b"\0")[0]:
                found.append(int(entry.name))
    return found


def up(bench: Bench, section: Section) -> None:
    """Start of the whole system, until it takes work"""
    took = section.measure("start", "s")
    again = section.measure("start on a state directory of before", "s")
    for _ in range(1 if bench.quick else bench.rounds):
        for kind in (type(system) for system in bench.systems.values() if system.name != Pool.name):
            system = bench.fresh(kind)
            try:
                took.add(system.name, system.start())
                if isinstance(system, Intermodal):
                    system.command("down")
                    again.add(OURS, system.start())
            finally:
                system.stop()


def wire(bench: Bench, section: Section) -> None:
    """The wire alone, beside a bare echo of bytes"""
    command = [sys.executable, str(HERE / "wire.py"), *(["--quick"] if bench.quick else [])]
    for _ in range(bench.rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        for row in map(json.loads, done.stdout.splitlines()):
            section.measure(row["name"], row["unit"]).add("the wire", row["value"])


ALL: dict[str, Callable[[Bench, Section], None]] = {
    "idle": idle,  # first: before anybody has connected
    "call": call,
    "map": map_,
    "spawn": spawn,
    "payload": payload,
    "cold": cold,
    "import": import_,
    "run": run,
    "burst": burst,
    "up": up,
    "wire": wire,
    "images": images.images,
    "copy": images.copy,
    "pip": images.pip,
    **volumes.ALL,
}
