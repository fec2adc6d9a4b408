"""What one state directory still has on this machine."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from intermodal.worker.containers import names
from intermodal.worker.network.netlink import Netlink

GRACE = 60.0  # seconds for what the kernel removes in its own time: it costs time only where something stays


def traces_of(home: Path) -> list[str]:
    """Interfaces, firewall table, control groups, mounts and processes; [] once nothing is left."""
    deadline = time.monotonic() + GRACE
    while True:
        left = traces_now(home)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def traces_now(home: Path) -> list[str]:
    """The same, without waiting for anything to go."""
    token = names.token(home)
    with Netlink() as netlink:
        found = [
            f"interface {name}" for name in netlink.links() if name == f"im{token}" or name.startswith(f"iv{token[:7]}")
        ]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [line for line in tables.splitlines() if token in line]
    for place, groups, _files in os.walk("/sys/fs/cgroup"):  # unlike a glob, it takes no harm when some vanish
        found += [f"cgroup {place}/{group}" for group in groups if token in group]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_text() if entry.name.isdigit() else ""
        except OSError:
            continue
        if names.cgroup_name(home) in command or str(home) in command:
            found.append(f"process {entry.name} {command}")
    directories = home / "containers"
    if directories.exists():
        found += [str(path) for path in directories.iterdir()]
    return found
