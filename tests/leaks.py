"""What a test may leave behind on a machine: processes, mounts, cgroups, network namespaces, firewall tables.

Processes and mounts are ours when they name a directory of this test run. Cgroups, network
namespaces and firewall tables name no directory; they are looked at only where nobody else
runs containers at the same time: with CI=true or INTERMODAL_LEAKS=all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

GRACE = 5.0  # seconds for what is already on its way out
CGROUP_ROOT = Path("/sys/fs/cgroup")
NETNS_DIRS = (Path("/run/netns"), Path("/run/intermodal/netns"))
WORDS = ("intermodal", "ta-")  # what our cgroups, namespaces and tables are called


class Traces:
    """Finds what belongs to the test run whose temporary files lie below `base`."""

    def __init__(self, base: Path) -> None:
        self.base = str(base)
        self.alone = os.environ.get("CI") == "true" or os.environ.get("INTERMODAL_LEAKS") == "all"

    def now(self) -> set[str]:
        """One line for each thing that is there."""
        found = self._mounts() | self._processes()
        if self.alone:
            found |= _cgroups() | _namespaces() | _tables()
        return found

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


def _cgroups() -> set[str]:
    if not CGROUP_ROOT.is_dir():
        return set()
    found = set()
    for folder, names, _files in os.walk(CGROUP_ROOT):
        found |= {f"cgroup {folder}/{name}" for name in names if name.startswith(WORDS)}
    return found


def _namespaces() -> set[str]:
    return {f"network namespace {path}" for folder in NETNS_DIRS if folder.is_dir() for path in folder.iterdir()}


def _tables() -> set[str]:
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if nft is None or os.geteuid() != 0:
        return set()
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return {f"firewall {line}" for line in done.stdout.splitlines() if any(word in line for word in WORDS)}
