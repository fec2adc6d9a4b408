"""What to start, how it ended, and what went wrong: the words that callers of `Containers` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

NETWORKS = ("bridge", "none", "host")


class ContainersError(Exception):
    """This machine cannot run containers as asked; the text says what is missing and what to do."""


class StartFailed(ContainersError):
    """One container did not start; the text says why."""


class StartInterrupted(StartFailed):
    """What was to bring the container up was itself ended from outside: nobody's mistake, so it is tried again."""


@dataclass(frozen=True)
class Bind:
    """A file or directory of this machine that the container sees at `target`."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Device:
    """A device node of this machine that the container may use, at `target`."""

    source: Path
    target: str


@dataclass(frozen=True)
class Limits:
    """What a container may use. Zero means no limit."""

    cpu: float = 0.0  # cores that it may use at most
    cpu_shares: float = 0.125  # cores that it asked for: its weight when cores are scarce
    memory: int = 0  # MiB, with no swap beyond it
    pids: int = 4096  # processes and threads
    disk: int = 0  # MiB that it may write to its root (`disks` says where that cannot be enforced)


@dataclass(frozen=True)
class User:
    """Whom the first process of a container is."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


ROOT = User()


@dataclass(frozen=True)
class Launch:
    """One container to start."""

    container_id: str
    layers: list[Path]  # lowest first
    argv: list[str]
    env: dict[str, str]
    directory: Path  # upper/ work/ root/ (mount point) stdout stderr state.json … are made below it
    cwd: str = "/root"
    binds: list[Bind] = field(default_factory=list)
    limits: Limits = Limits()
    network: str = "bridge"  # "bridge", "none" (loopback alone) or "host"
    hostname: str = "modal"
    upper: Path | None = None  # an upper directory of the caller's own, kept when the container is closed
    user: User = ROOT
    runtime: str = ""  # "" = the best one here
    devices: list[Device] = field(default_factory=list)
    hooks: dict[str, list[dict[str, object]]] = field(default_factory=dict)  # of the runtime, by their moment
    outlives_worker: bool = True  # False: the next worker removes it instead of adopting it (builds)


@dataclass(frozen=True)
class Exit:
    """How a container ended."""

    code: int  # as a shell gives it: 128 + the signal when a signal ended it
    signal: int = 0
    # "exited", "out-of-memory", "killed", "start-failed", "out-of-disk"; "interrupted": as StartInterrupted
    reason: str = "exited"
    detail: str = ""
