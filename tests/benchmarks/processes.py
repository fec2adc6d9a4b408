"""Processes that a benchmark starts: found, measured, ended by their ids.

A system's processes are those with its mark in their environment, those of the sessions that it was
started in (some programs overwrite their environment with their title), and all their descendants.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "INTERMODAL_BENCH"  # in the environment of everything that a run starts
TICK = os.sysconf("SC_CLK_TCK")
END_SECONDS = 10.0  # that a process has to end after SIGTERM


@dataclass(frozen=True)
class Cpu:
    """Seconds of processor time: of processes themselves, and of children that they waited for."""

    own: float
    children: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.own - other.own, self.children - other.children)


@dataclass(frozen=True)
class Stat:
    """What /proc/<pid>/stat says."""

    state: str
    parent: int
    session: int
    cpu: Cpu


def parse_stat(text: str) -> Stat:
    """The name in parentheses may contain anything."""
    parts = text.rpartition(")")[2].split()
    user, system, child_user, child_system = (int(part) / TICK for part in parts[11:15])
    return Stat(parts[0], int(parts[1]), int(parts[3]), Cpu(user + system, child_user + child_system))


def _all() -> dict[int, Stat]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except OSError:
                continue  # it has ended
    return found


def belonging(mark: str, sessions: set[int]) -> list[int]:
    """The processes of a system that are alive, whoever started them; `sessions` learns theirs."""
    wanted = f"{MARK}={mark}\0".encode()
    stats = {pid: stat for pid, stat in _all().items() if stat.state != "Z" and pid != os.getpid()}
    found = set()
    for pid, stat in stats.items():
        try:
            if stat.session in sessions or wanted in Path(f"/proc/{pid}/environ").read_bytes() + b"\0":
                found.add(pid)
        except OSError:
            continue  # it has ended, or is not ours
    while more := {pid for pid, stat in stats.items() if stat.parent in found} - found:
        found |= more
    # Their parents may end before them.
    sessions |= {stats[pid].session for pid in found} - {os.getsid(0)}
    return sorted(found)


def pss_mb(pids: list[int]) -> float:
    """Memory in MB: what is shared counts in proportion (smaps_rollup)."""
    return sum(map(_pss, pids)) / 1e6


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def cpu_seconds(pids: list[int]) -> Cpu:
    own = children = 0.0
    for pid in pids:
        try:
            found = parse_stat(Path(f"/proc/{pid}/stat").read_text()).cpu
        except OSError:
            continue
        own += found.own
        children += found.children
    return Cpu(own, children)


def machine_busy() -> float:
    """Processor seconds that all cores together have worked since the machine started."""
    fields = [int(part) / TICK for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    idle = fields[3] + fields[4]
    return sum(fields[:8]) - idle


def end(pids: list[int]) -> None:
    """SIGTERM, a while to end, SIGKILL."""
    deadline = time.monotonic() + END_SECONDS
    for number in (signal.SIGTERM, signal.SIGKILL):
        descriptors = []
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            descriptors.append(descriptor)
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                pass
        for descriptor in descriptors:
            select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            os.close(descriptor)
        deadline = time.monotonic() + 2.0


def end_all(mark: str, sessions: set[int]) -> None:
    """End everything that belongs to a system, also what it starts meanwhile."""
    while pids := belonging(mark, sessions):
        end(pids)
    for pid, stat in _all().items():
        if stat.state == "Z" and stat.parent == os.getpid():
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def start(command: list[str], env: dict[str, str], log: Path, folder: Path) -> int:
    """A process in a session of its own, whose number is returned; its output goes to the end of `log`."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=folder, start_new_session=True
        )
    child.returncode = 0  # `end_all` waits for it
    return child.pid
