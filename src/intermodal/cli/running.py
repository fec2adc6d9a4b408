"""`up`, `down` and `logs`: the processes of this machine."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intermodal import lifecycle
from intermodal.home import Home
from modal._protocol.errors import Fault, ProtocolError

FOLLOW_STEP = 0.5  # seconds between looks at a log that is followed


def up_quietly() -> int:
    """`up --quiet`: nothing is said unless it fails."""
    try:
        lifecycle.up(Home())
    except (lifecycle.Failed, Fault, ProtocolError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def describe(found: dict[str, Any]) -> list[str]:
    """Where server and worker are, for `up` and `status`."""
    lines = [f"server   process {found['pid']}, {', '.join(found['addresses'])}"]
    for worker in found["workers"]:
        state = "" if worker.get("connected", True) else ", away"
        state += ", drained" if worker.get("drained") else ""
        name = f"{worker['hostname']} ({worker['worker_id']})" if len(found["workers"]) > 1 else worker["hostname"]
        lines.append(f"worker   process {worker['pid']} on {name}, runtime {runtime_of(worker)}{state}")
    local = found["local_worker"]
    if local is not None and not found["workers"]:
        lines.append(f"worker   none: {local['state']}")
    if local is not None and local["failures"]:
        lines.append(f"         it ended {local['failures']} times in a row, the last time with {local['last_exit']}")
    shown = found.get("certificates", ())
    lines.extend(f"TLS      {', '.join(one['names'])}: {one['problem'] or one['path']}" for one in shown)
    lines.append(f"state    {found['home']}")
    return lines


def runtime_of(worker: dict[str, Any]) -> str:
    """The runtime that a worker uses: its best."""
    runtimes = worker.get("runtimes") or ["none"]
    return str(runtimes[0])


def host_warning(found: dict[str, Any]) -> str:
    """The warning that a worker has no containers, "" where all have."""
    if any(runtime_of(worker) == "host" for worker in found["workers"]):
        return (
            "WARNING: this machine can run NO CONTAINERS (runtime `host`): no image is built and no function runs. "
            "`intermodal doctor` says what is missing."
        )
    return ""


def follow(paths: list[Path], lines: int, forever: bool) -> Iterator[tuple[Path, str]]:
    """The last lines of each log; then, for ever, new ones. A log that was rotated is opened anew."""
    offsets: dict[Path, tuple[int, int]] = {}
    for path in paths:
        data, inode, offset = _read(path, 0, 0)
        offsets[path] = (inode, offset)
        for line in data.splitlines()[-lines:] if lines else []:
            yield path, line
    while forever:
        select.select([], [], [], FOLLOW_STEP)
        for path in paths:
            inode, offset = offsets[path]
            data, inode, offset = _read(path, inode, offset)
            offsets[path] = (inode, offset)
            for line in data.splitlines():
                yield path, line


def _read(path: Path, inode: int, offset: int) -> tuple[str, int, int]:
    """Whole lines from there on; (text, inode, offset behind it)."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != inode or found.st_size < offset:
                offset = 0
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return "", 0, 0
    end = data.rfind(b"\n") + 1
    return data[:end].decode(errors="replace"), found.st_ino, offset + end
