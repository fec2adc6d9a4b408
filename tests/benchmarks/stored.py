"""Queues and dicts beside Redis lists and hashes; both on the disk before a change is answered.

Redis runs twice: with `appendfsync always`, which promises what our queues and dicts promise, and with `everysec`,
which may lose the last second.
"""

from __future__ import annotations

import shutil

from tests.benchmarks.figures import OURS, Section, percentile
from tests.benchmarks.measurements import Bench, failures_noted, started
from tests.benchmarks.systems import NotThereError, System


class Redis(System):
    """On a unix socket, as our clients of this machine."""

    name = "Redis, fsync always"
    modules = ("redis",)
    fsync = "always"

    def check(self) -> None:
        super().check()
        if shutil.which("redis-server") is None:
            raise NotThereError("redis-server is not installed (Debian, Ubuntu: apt-get install redis-server)")

    def _up(self) -> None:
        self._spawn(
            "redis-server", "--port", "0", "--unixsocket", str(self.folder / "socket"), "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", self.fsync,
        )  # fmt: skip
        self._wait(lambda: (self.folder / "socket").is_socket(), "redis-server")

    def _options(self) -> dict[str, str]:
        return {"path": str(self.folder / "socket")}


class RedisEverySecond(Redis):
    name = "Redis, fsync every second"
    fsync = "everysec"


def queue(bench: Bench, section: Section) -> None:
    """A queue: items of 100 bytes, one by one and in batches of 100"""
    _compare(bench, section, "stored_queue")


def dictionary(bench: Bench, section: Section) -> None:
    """A dict: values of 100 bytes, one by one and in batches of 100"""
    _compare(bench, section, "stored_dict")


def _compare(bench: Bench, section: Section, what: str) -> None:
    systems = {OURS: bench.systems[OURS], **started(bench, section, (Redis, RedisEverySecond))}
    count = 50 if bench.quick else 500
    for system in systems.values():
        with failures_noted(section, system):
            system.driver.ask("own", name=what, count=20)
    for _ in range(bench.rounds * 2):
        for system in systems.values():
            with failures_noted(section, system):
                for name, times in system.driver.ask("own", name=what, count=count).items():
                    section.measure(f"{name}, p50", "ms").add(system.name, percentile(times, 50) * 1e3)
    for system in systems.values():
        if isinstance(system, Redis):
            system.stop()
