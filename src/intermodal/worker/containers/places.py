"""The files of one container's directory."""

from __future__ import annotations

from pathlib import Path


class Places:
    """Paths below `containers/<id>/`."""

    def __init__(self, directory: Path, upper: Path | None = None, disk: bool = False) -> None:
        """`disk`: what it writes goes to a disk of its own."""
        self.directory = directory
        self.disk = directory / "disk"  # where that is mounted
        self.root = directory / "root"  # where the overlay is mounted
        self.upper = upper or directory / "upper"  # what the container writes
        self.work = directory / "work"  # the overlay's own
        if disk and upper is None:
            self.upper, self.work = self.disk / "upper", self.disk / "work"
        if upper is not None and upper.parent.stat().st_dev != directory.parent.stat().st_dev:
            self.work = upper.with_name(f"{upper.name}.work")  # both must be on one file system
        self.run = directory / "run"  # for sockets; the caller binds it
        self.files = directory / "etc"  # resolv.conf, hosts, hostname
        self.stdout = directory / "stdout"
        self.stderr = directory / "stderr"
        self.state = directory / "state.json"
        self.config = directory / "config.json"
        self.command = directory / "command"  # shell text that the monitor runs
        self.pid = directory / "pid"  # written by the runtime once the container is there
        self.exit = directory / "exit"  # written by the monitor at the end
        self.log = directory / "runtime.log"  # errors of the runtime, JSON lines

    def began(self) -> bool:
        """Whether the container came up: its pid file is whole."""
        try:
            return int(self.pid.read_text()) > 0
        except (OSError, ValueError):
            return False
