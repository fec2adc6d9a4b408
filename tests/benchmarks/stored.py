"""Queues and dicts beside Redis lists and hashes; both on the disk before a change is answered.

Redis runs with `appendfsync always`, which promises what our queues and dicts promise.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from concurrent.futures import ThreadPoolExecutor

from tests.benchmarks.figures import OURS, Section, percentile
from tests.benchmarks.measurements import Bench, failures_noted, started
from tests.benchmarks.systems import Driver, Intermodal, NotThereError, System

CLIENTS = 8  # at once, in processes of their own
QUEUE = {"put": 100, "get": 100, "put 100": 20, "get 100": 20}  # operations of each kind a round
DICT = {"put": 100, "get": 500, "contains": 500, "pop": 100, "update 100": 20, "items of 100": 50}


class Redis(System):
    """On a unix socket, as our clients of this machine."""

    name = "Redis, fsync always"
    modules = ("redis",)

    def check(self) -> None:
        super().check()
        if shutil.which("redis-server") is None:
            raise NotThereError("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")

    def _up(self) -> None:
        self._spawn(
            "redis-server", "--port", "0", "--unixsocket", str(self.folder / "socket"), "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        )  # fmt: skip
        self._wait(lambda: (self.folder / "socket").is_socket(), "redis-server")

    def _options(self) -> dict[str, str]:
        return {"path": str(self.folder / "socket")}


def queue(bench: Bench, section: Section) -> None:
    """A queue: items of 100 bytes, one by one and in batches of 100"""
    _compare(bench, section, "queue", QUEUE)


def dictionary(bench: Bench, section: Section) -> None:
    """A dict: values of 100 bytes, one by one and 100 at once"""
    _compare(bench, section, "dict", DICT)


def _compare(bench: Bench, section: Section, kind: str, operations: dict[str, int]) -> None:
    peers = started(bench, section, (Redis,))
    systems: list[System] = [bench.systems[OURS], *peers.values()]
    try:
        for count in (1, CLIENTS):
            with contextlib.ExitStack() as stack:
                clients = {system: [_client(system, stack) for _ in range(count)] for system in systems}
                for number in range(1 + bench.rounds * (1 if bench.quick else 4)):
                    for phase, wanted in operations.items():
                        # One right after the other: the disk is not always as quick. Who begins is left to chance.
                        for system in random.sample(systems, len(systems)):
                            with failures_noted(section, system):
                                times = _all(clients[system], kind, phase, wanted // (5 if bench.quick else 1))
                                if number:  # the first round warms up
                                    who = "1 client" if count == 1 else f"{count} clients"
                                    measure = section.measure(f"{phase}, {who}, p50", "ms")
                                    measure.add(system.name, percentile(times, 50) * 1e3)
    finally:
        for peer in peers.values():
            peer.stop()


def _all(clients: list[Driver], kind: str, phase: str, count: int) -> list[float]:
    """The times of all clients, which begin together."""
    with ThreadPoolExecutor(len(clients)) as pool:
        asked = [
            pool.submit(client.ask, "own", name="stored", kind=kind, phase=phase, count=count) for client in clients
        ]
        return [time for answer in asked for time in answer.result()]


def _client(system: System, stack: contextlib.ExitStack) -> Driver:
    peer, options = ("stored", {}) if isinstance(system, Intermodal) else ("redis", system._options())
    made = Driver(system.python, peer, options, system.env, system.log)
    stack.callback(made.close)
    return made
