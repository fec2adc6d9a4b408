"""Control groups, v1 and v2: one below the home's own parent for each container. The worker makes them itself.

Letting the runtime do it costs 13-20 ms a start. A process moves itself in before it becomes the runtime; on v1 it
writes to `tasks`, which for the writing thread alone needs no machine-wide lock (`cgroup.procs` may wait 10 ms for it).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path

from intermodal.worker.containers.delegation import Delegation
from intermodal.worker.containers.launch import Limits
from intermodal.worker.containers.processes import Process

CONTROLLERS_V1 = ("cpu", "cpuacct", "memory", "pids", "devices", "freezer")
CONTROLLERS_V2 = ("cpu", "memory", "pids")
PERIOD = 100_000  # microseconds of a CPU quota's period
REMOVE_WITHIN = 5.0  # seconds that the last processes of a group have to vanish
MEBIBYTE = 1024 * 1024

# The nodes that every container may use: null, zero, full, random, urandom, tty, console, ptmx, pts/*.
DEVICES = ("c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0", "c 5:1", "c 5:2", "c 136:*")


class Mounts:
    """Where this machine mounts its control group hierarchies."""

    def __init__(self, unified: Path | None, legacy: dict[str, Path], others: tuple[Path, ...] = ()) -> None:
        self.unified = unified
        self.legacy = legacy
        self.others = others  # v1 hierarchies in which we put nothing, but runc does

    @property
    def mode(self) -> str:
        """ "v1", "v2", "hybrid" or "none"."""
        if self.legacy:
            return "hybrid" if self.unified else "v1"
        return "v2" if self.unified else "none"

    @classmethod
    def read(cls, mountinfo: str = "/proc/self/mountinfo") -> Mounts:
        """As mounted in this process's mount namespace."""
        unified: Path | None = None
        legacy: dict[str, Path] = {}
        roots: list[Path] = []
        for line in Path(mountinfo).read_text().splitlines():
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if kind[0] == "cgroup2":
                unified = unified or Path(fields[4])
            elif kind[0] == "cgroup":
                roots.append(Path(fields[4]))
                for controller in kind[2].split(","):
                    if controller in CONTROLLERS_V1:
                        legacy.setdefault(controller, Path(fields[4]))
        return cls(unified, legacy, tuple(root for root in roots if root not in legacy.values()))


class CgroupTree:
    """The home's parent groups, below which each container gets its own.

    Without root the parent is in a group that systemd has made for this worker (`delegation`), and `notes` is a file
    that names those of earlier workers, in which their containers still are.
    """

    def __init__(
        self,
        name: str,
        mounts: Mounts | None = None,
        delegation: Delegation | None = None,
        notes: Path | None = None,
    ) -> None:
        self.name = name
        self.mounts = mounts or Mounts.read()
        self.problem = ""
        self.v2 = self.mounts.mode == "v2"
        self.parents: dict[str, Path] = {}  # by controller
        self._delegation = delegation or Delegation()
        self._notes = notes
        self._earlier: list[Path] = []

    def open(self) -> None:
        """Make the parents. Where that is not permitted, `problem` says so and there are no limits."""
        if self._notes is not None and self.v2:
            self._earlier = _noted(self._notes)
        try:
            if self.v2 and self._delegation.problem:
                self.problem = f"no control groups, so no limits: {self._delegation.problem}"
            elif self.v2:
                self._open_v2(self._delegation.base)
            else:
                self._open_v1()
        except OSError as error:
            self.parents = {}
            self.problem = f"no control groups, so no limits: {error}"
        self._note()
        if not self.parents and not self.problem:
            self.problem = "no control groups are mounted here, so limits do not hold"
        missing = [name for name in CONTROLLERS_V2 if name not in self.parents] if self.parents else []
        if missing and not self.problem:
            whose = "those that systemd lets users have" if self._delegation.base else "this machine's control groups"
            self.problem = f"{whose} lack {', '.join(missing)}: limits of these do not hold"

    def _open_v1(self) -> None:
        for controller, root in self.mounts.legacy.items():
            parent = root / self.name
            parent.mkdir(exist_ok=True)
            self.parents[controller] = parent

    def _open_v2(self, base: Path | None) -> None:
        root = base or self.mounts.unified
        assert root is not None
        _enable(root)
        parent = root / self.name
        parent.mkdir(exist_ok=True)
        _enable(parent)
        for controller in _passed_on(parent):
            self.parents[controller] = parent
        self.parents.setdefault("", parent)

    def _note(self) -> None:
        """For the next worker: where containers of this one, and of earlier ones, are."""
        if self._notes is None:
            return
        self._earlier = [path for path in self._earlier if path.is_dir() and path not in self.directories]
        places = [*self._earlier, *self.directories] if self._delegation.base or self._earlier else []
        if places:
            self._notes.write_text("".join(f"{path}\n" for path in places))
        else:
            self._notes.unlink(missing_ok=True)

    @property
    def enforced(self) -> list[str]:
        """Which limits hold."""
        return [name for name in CONTROLLERS_V2 if name in self.parents]

    @property
    def directories(self) -> list[Path]:
        """The parents, each once."""
        return list(dict.fromkeys(self.parents.values()))

    def make(self, name: str) -> Cgroup:
        """A new group; with the limits that every container has, the devices."""
        group = Cgroup(name, self.parents, self.v2, self.mounts.unified)
        for directory in group.directories:
            directory.mkdir(exist_ok=True)
        group.deny_devices()
        return group

    def find(self, name: str) -> Cgroup:
        """The group of an earlier worker."""
        for parent in self._earlier:
            if (parent / name).is_dir():
                return Cgroup(name, dict.fromkeys(_passed_on(parent) or [""], parent), self.v2)
        return Cgroup(name, self.parents, self.v2)

    def names(self) -> set[str]:
        """Every group that exists below the parents."""
        found: set[str] = set()
        for parent in [*self._earlier, *self.directories]:
            try:
                with os.scandir(parent) as entries:
                    found.update(entry.name for entry in entries if entry.is_dir())
            except FileNotFoundError:
                continue
        return found

    def close(self) -> None:
        """Remove the parents and whatever is left in them."""
        for name in self.names():
            self.find(name).remove()
        for parent in [*self._earlier, *self.directories]:
            _remove_directory(parent)
        if self._notes is not None:
            self._notes.unlink(missing_ok=True)
        self._earlier = []
        for root in self.mounts.others:
            for directory in [*(root / self.name).glob("*/"), root / self.name]:
                _remove_directory(directory)
        self.parents = {}


class Cgroup:
    """One container's control groups: a directory on v2, one a hierarchy on v1."""

    def __init__(self, name: str, parents: dict[str, Path], v2: bool, root: Path | None = None) -> None:
        """`root`: where the hierarchy is mounted."""
        self.name = name
        self.v2 = v2
        self._root = root
        self.by_controller = {controller: parent / name for controller, parent in parents.items()}
        self.directories = list(dict.fromkeys(self.by_controller.values()))

    @property
    def path(self) -> str:
        """As runtimes name it: from the root of the hierarchy; "" where there is none."""
        if not self.directories:
            return ""
        directory = self.directories[0]
        root = self._root if self.v2 and self._root else directory.parent.parent
        return f"/{directory.relative_to(root)}"

    @property
    def entrances(self) -> list[str]:
        """Files to which a single-threaded process writes 0 to move itself in."""
        return [str(directory / ("cgroup.procs" if self.v2 else "tasks")) for directory in self.directories]

    def _file(self, controller: str, name: str) -> Path | None:
        directory = self.by_controller.get(controller)
        return directory / name if directory else None

    def _write(self, controller: str, name: str, value: str) -> None:
        path = self._file(controller, name)
        if path is not None:
            path.write_text(value)

    def deny_devices(self) -> None:
        """v1 only: no device but the usual ones. (Everywhere: no CAP_MKNOD, and the root is mounted `nodev`.)"""
        directory = self.by_controller.get("devices")
        if directory is None or self.v2:
            return
        try:
            (directory / "devices.deny").write_text("a")
            for device in DEVICES:
                (directory / "devices.allow").write_text(f"{device} rwm")
        except PermissionError:
            return  # without the machine's root there is nothing to deny

    def allow_devices(self, nodes: Iterable[Path]) -> None:
        """v1 only: these too. (v2 has no such file; there, what has no node in the container cannot be opened.)"""
        directory = self.by_controller.get("devices")
        for node in nodes:
            if directory is not None and not self.v2:
                number = node.stat().st_rdev
                (directory / "devices.allow").write_text(f"c {os.major(number)}:{os.minor(number)} rwm")

    def limit(self, limits: Limits) -> None:
        """Set the limits of one container."""
        shares = max(2, min(262_144, int(limits.cpu_shares * 1024)))
        if self.v2:
            self._limit_v2(limits, shares)
        else:
            self._limit_v1(limits, shares)
        if limits.pids:
            # The runtime's own two processes and the waiting shell live in the group too.
            self._write("pids", "pids.max", str(limits.pids + 3))

    def _limit_v1(self, limits: Limits, shares: int) -> None:
        self._write("cpu", "cpu.shares", str(shares))
        if limits.cpu:
            self._write("cpu", "cpu.cfs_period_us", str(PERIOD))
            self._write("cpu", "cpu.cfs_quota_us", str(max(1000, int(limits.cpu * PERIOD))))
        if limits.memory:
            size = str(limits.memory * MEBIBYTE)
            self._write("memory", "memory.limit_in_bytes", size)
            with_swap = self._file("memory", "memory.memsw.limit_in_bytes")
            if with_swap is not None and with_swap.exists():
                with_swap.write_text(size)

    def _limit_v2(self, limits: Limits, shares: int) -> None:
        self._write("cpu", "cpu.weight", str(1 + (shares - 2) * 9999 // 262_142))
        if limits.cpu:
            self._write("cpu", "cpu.max", f"{max(1000, int(limits.cpu * PERIOD))} {PERIOD}")
        if limits.memory:
            self._write("memory", "memory.max", str(limits.memory * MEBIBYTE))
            swap = self._file("memory", "memory.swap.max")
            if swap is not None and swap.exists():
                swap.write_text("0")

    def out_of_memory(self) -> int:
        """How many processes the kernel killed because the group was over its limit."""
        path = self._file("memory", "memory.events" if self.v2 else "memory.oom_control")
        return _counters(path).get("oom_kill", 0)

    def usage(self) -> tuple[float, float]:
        """CPU seconds used so far, and MiB in memory now (without file cache that can be dropped)."""
        if self.v2:
            cpu = _counters(self._file("cpu", "cpu.stat")).get("usage_usec", 0) / 1e6
            size = _number(self._file("memory", "memory.current"))
            cache = _counters(self._file("memory", "memory.stat")).get("inactive_file", 0)
        else:
            cpu = _number(self._file("cpuacct", "cpuacct.usage")) / 1e9
            size = _number(self._file("memory", "memory.usage_in_bytes"))
            cache = _counters(self._file("memory", "memory.stat")).get("total_inactive_file", 0)
        return cpu, max(0, size - cache) / MEBIBYTE

    def pids(self) -> set[int]:
        """Every process in the group."""
        found: set[int] = set()
        for directory in self.directories:
            try:
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV):
                    raise
        found.discard(0)  # a process that this pid namespace cannot see
        return found

    def kill(self, spare: Iterable[int] = ()) -> None:
        """SIGKILL to every process in the group but the spared ones."""
        spared = set(spare)
        for pid in self.pids() - spared:
            process = Process.of(pid)
            if process is not None and pid in self.pids():
                process.kill()

    def thaw(self) -> None:
        """Frozen processes of a v1 group do not even notice SIGKILL; those of v2 do."""
        state = self._file("freezer", "freezer.state")
        if state is not None and not self.v2:
            with contextlib.suppress(OSError):
                state.write_text("THAWED")

    def end(self) -> None:
        """Kill every process and wait until they are gone. Raises OSError when one does not go."""
        deadline = time.monotonic() + REMOVE_WITHIN
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"processes {sorted(pids)} of control group {self.name} do not end")
            self.kill()
            time.sleep(0.002)

    def remove(self) -> None:
        """Kill what is inside and remove the directories."""
        deadline = time.monotonic() + REMOVE_WITHIN
        for directory in self.directories:
            while not _remove_directory(directory):
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, f"control group {directory} still has processes {sorted(self.pids())}")
                self.kill()
                time.sleep(0.002)


def _remove_directory(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        return False
    return True


def _enable(directory: Path) -> None:
    """Let the groups below have our controllers, as far as this directory has them itself."""
    control = directory / "cgroup.subtree_control"
    have = set((directory / "cgroup.controllers").read_text().split())
    wanted = [name for name in CONTROLLERS_V2 if name in have and name not in control.read_text().split()]
    if not wanted:
        return
    try:
        control.write_text(" ".join(f"+{name}" for name in wanted))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # In a container the topmost group has processes itself, which v2 forbids: they move one level down.
        leaf = directory / "init"
        leaf.mkdir(exist_ok=True)
        for pid in (directory / "cgroup.procs").read_text().split():
            try:
                (leaf / "cgroup.procs").write_text(pid)
            except ProcessLookupError:
                continue
        control.write_text(" ".join(f"+{name}" for name in wanted))


def _passed_on(parent: Path) -> list[str]:
    """The controllers that the groups below have."""
    return (parent / "cgroup.subtree_control").read_text().split()


def _noted(notes: Path) -> list[Path]:
    try:
        return [Path(line) for line in notes.read_text().splitlines() if line]
    except FileNotFoundError:
        return []


def _number(path: Path | None) -> int:
    try:
        return int(path.read_text()) if path else 0
    except (FileNotFoundError, OSError):
        return 0


def _counters(path: Path | None) -> dict[str, int]:
    """A file with lines of a name and a number."""
    if path is None:
        return {}
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
