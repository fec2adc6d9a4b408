"""Processes of ours: known by pid and start time together, so that a reused pid is never mistaken."""

from __future__ import annotations

import os
import resource
import select
import signal
from pathlib import Path
from typing import NamedTuple


class ProcessId(NamedTuple):
    """`started`: clock ticks between the machine's start and the process's (field 22 of /proc/PID/stat)."""

    pid: int
    started: int

    @property
    def lives(self) -> bool:
        return started_at(self.pid) == self.started

    def __str__(self) -> str:
        return f"{self.pid} {self.started}"


def myself() -> ProcessId:
    return ProcessId(os.getpid(), started_at(os.getpid()) or 0)


def started_at(pid: int) -> int | None:
    """None where no such process lives (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def lives(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2][:1]
    except OSError:
        return not os.path.isdir("/proc/self")  # gone just now, or a system without /proc
    return state not in ("Z", "X")  # one that was killed and not yet waited for does nothing any more


def parse(text: str) -> ProcessId | None:
    """What `str` made of one; a pid alone is taken to mean the process that has it now."""
    parts = text.split()
    if not parts or not all(part.isdigit() for part in parts):
        return None
    pid = int(parts[0])
    started = int(parts[1]) if len(parts) > 1 else started_at(pid)
    return None if started is None else ProcessId(pid, started)


def wait_end(process: ProcessId, seconds: float) -> bool:
    """Whether it ended in time."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not process.lives:
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def end(process: ProcessId, seconds: float) -> bool:
    """SIGTERM, then SIGKILL after `seconds`; whether it is gone."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        if not process.lives:
            return True
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return True
        if wait_end(process, patience):
            return True
    return False


def memory(pid: int) -> int:
    """Resident memory in bytes, what is shared counted in part; 0 where it cannot be read."""
    for path, field in ((f"/proc/{pid}/smaps_rollup", "Pss:"), (f"/proc/{pid}/status", "VmRSS:")):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith(field):
                        return int(line.split()[1]) * 1024
        except OSError:
            continue
    return 0


def leave_no_core() -> None:
    """If this process crashes, its memory, which may hold secrets, is not written to a file."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def allow_many_files() -> None:
    """Let this process have as many open files as it may: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
