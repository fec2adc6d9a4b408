"""What a test may leave behind on a machine: processes, mounts, cgroups, network interfaces, firewall tables.

Processes and mounts are ours when they name a directory of this test run; cgroups, interfaces and
tables when they carry the hash of one (`intermodal.worker.containers.names`). With CI=true or
INTERMODAL_LEAKS=all, where nobody else runs containers, whatever is called like ours counts.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

GRACE = 60.0  # seconds for what is already on its way out: it costs time only where something stays
CGROUP_ROOT = Path("/sys/fs/cgroup")
INTERFACES = Path("/sys/class/net")
ANYBODYS = re.compile(r"intermodal[-_][0-9a-f]{8}|i[mv][0-9a-f]{8,13}")
RUNNING: set[Path] = set()  # state directories of platforms that tests share: what these have is no leak yet
DEPTH = 3  # how far below the run's directory a test's state directory may lie


class Traces:
    """Finds what belongs to the test run whose temporary files lie below `base`."""

    def __init__(self, base: Path) -> None:
        self.base = str(base)
        self.alone = os.environ.get("CI") == "true" or os.environ.get("INTERMODAL_LEAKS") == "all"

    def now(self) -> set[str]:
        """One line for each thing that is there."""
        named = {f"control group {name}" for name in _cgroups()}
        named |= {f"interface {name}" for name in _interfaces()}
        named |= {f"firewall {name}" for name in _tables()}
        if self.alone:
            hashes = {_digest(home) for home in RUNNING}
            named = {line for line in named if not any(digest in line for digest in hashes)}
        else:
            hashes = self._hashes()
            named = {line for line in named if any(digest in line for digest in hashes)}
        return self._mounts() | self._processes() | named

    def _hashes(self) -> set[str]:
        """As they stand in names: of every directory that may be a state directory of this run."""
        folders = [self.base]
        for depth in range(1, DEPTH + 1):
            folders += glob.glob(f"{self.base}{'/*' * depth}/")
        return {_digest(folder) for folder in folders}

    def after(self, before: set[str]) -> list[str]:
        """What is there that was not before, once it had a moment to go."""
        deadline = time.monotonic() + GRACE
        while True:
            left = self.now() - before
            if not left or time.monotonic() > deadline:
                return sorted(left)
            time.sleep(0.05)

    def _mounts(self) -> set[str]:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return {f"mount {line.split()[4]}" for line in lines if self.base in line}

    def _processes(self) -> set[str]:
        found = set()
        own = {os.getpid(), os.getppid()}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in own:
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                told = command + (entry / "environ").read_bytes().decode(errors="replace")
                if self.base in told or self.base in (entry / "mountinfo").read_text():
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    if state != "Z" or command:
                        found.add(f"process {entry.name} {command[:120]}")
            except (OSError, ValueError):  # it has ended meanwhile
                continue
        return found


def _digest(home: str | Path) -> str:
    """What stands in the names of all that belongs to a state directory."""
    return hashlib.sha256(os.fsencode(os.path.normpath(home))).hexdigest()[:7]


def _cgroups() -> set[str]:
    found = set()
    for depth in (1, 2, 3):
        for path in glob.glob(f"{CGROUP_ROOT}{'/*' * depth}/"):
            if ANYBODYS.fullmatch(os.path.basename(os.path.normpath(path))):
                found.add(path)
    return found


def _interfaces() -> set[str]:
    return {name for name in os.listdir(INTERFACES) if ANYBODYS.fullmatch(name)} if INTERFACES.is_dir() else set()


def _tables() -> set[str]:
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if nft is None or os.geteuid() != 0:
        return set()
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return {line for line in done.stdout.splitlines() if ANYBODYS.search(line)}
