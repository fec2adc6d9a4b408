"""Processes by number, told apart from later ones that got the same number by their start time."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One process of this machine since its last boot."""

    pid: int
    started: int  # clock ticks since boot

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The live process with this number; None when there is none, or only its zombie."""
        fields = _stat(pid)
        if fields is None or fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    def kill(self) -> None:
        """SIGKILL, if this very process still runs."""
        if self.alive:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the state (field 3) on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            text = stat.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def parent_of(pid: int) -> int:
    """The parent's number; 0 when there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def children_of(pid: int) -> list[int]:
    """Numbers of the children of any thread of this process."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as children:
                found.extend(int(child) for child in children.read().split())
        except OSError:
            continue
    return found


def kill_below(top: Process, *, and_itself: bool = False) -> None:
    """SIGKILL to all that this process has started, and to what that has started; nothing where it has ended."""
    if not top.alive:
        return
    left = children_of(top.pid)  # before its end, which would make them somebody else's
    if and_itself:
        top.kill()
    while left:
        pid = left.pop()
        left.extend(children_of(pid))
        process = Process.of(pid)
        if process is not None:
            process.kill()


def resources_of(pid: int) -> tuple[float, float]:
    """CPU seconds used and MiB resident of a process and everything below it."""
    ticks, pages = 0, 0
    left = [pid]
    while left:
        current = left.pop()
        fields = _stat(current)
        if fields is not None:
            ticks += sum(int(field) for field in fields[11:15])
            pages += int(fields[21])
            left.extend(children_of(current))
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / (1024 * 1024)
