"""What turns a launch into a running process: `crun` or `runc`.

Each makes a shell command for the slot's monitor. It must write the pid file when the container is there, and end
with the container's exit code.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from intermodal.worker.containers import bundle, seccomp_filter
from intermodal.worker.containers.cgroups import Cgroup
from intermodal.worker.containers.launch import ContainersError, Launch, StartFailed
from intermodal.worker.containers.places import Places
from intermodal.worker.containers.start_faults import explain

NO_CONTAINERS = (
    "this machine can run no containers, so it builds no images and runs no functions: `intermodal doctor` says what "
    "is missing"
)
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _write_hidden(path: Path, content: bytes) -> None:
    """For nobody but this user: the variables in it may be secrets."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)


class Runtime(Protocol):
    """One way to run containers."""

    name: str
    works: bool  # whether it can start anything

    def write(self, launch: Launch, places: Places, cgroup: Cgroup) -> None:
        """Write the container's configuration and the monitor's command."""

    def remove(self, container_id: str) -> None:
        """Remove what the runtime itself may have left of a container that ended by force."""


@dataclass
class OciRuntime:
    """`crun` or `runc`."""

    name: str
    binary: str
    state_root: Path  # the runtime's own records
    user_namespace: bool
    takes_filter: bool = False  # whether it knows the annotation that carries a compiled seccomp filter
    works: bool = True

    def write(self, launch: Launch, places: Places, cgroup: Cgroup) -> None:
        # The monitor is in the container's network already, but "none" is a namespace that the runtime makes.
        share_network = launch.network != "none"
        config = bundle.configuration(
            launch,
            places.root,
            places.files,
            seccomp_ready=self.takes_filter and bool(seccomp_filter.compiled()),
            user_namespace=self.user_namespace,
            share_network=share_network,
            cgroup_path=self._cgroup_path(cgroup),
            memory_by_rlimit="memory" not in cgroup.by_controller,
        )
        _write_hidden(places.config, config)
        places.command.write_text(self._command(launch, places))

    def _cgroup_path(self, cgroup: Cgroup) -> str:
        """runc always looks after control groups, so it gets the one that is there."""
        return cgroup.path if self.name == "runc" else ""

    def _command(self, launch: Launch, places: Places) -> str:
        words = [self.binary, "--root", str(self.state_root), f"--log={places.log}", "--log-format=json"]
        if self.name == "crun":
            words.append("--cgroup-manager=disabled")
        words += ["run", "--bundle", str(places.directory), "--pid-file", str(places.pid), launch.container_id]
        return f"{shlex.join(words)} </dev/null {_outputs(places)}\n"

    def remove(self, container_id: str) -> None:
        shutil.rmtree(self.state_root / container_id, ignore_errors=True)


@dataclass
class NoRuntime:
    """What a worker has where none works: it goes on, to say so."""

    name: str = "host"
    works: bool = False

    def write(self, launch: Launch, places: Places, cgroup: Cgroup) -> None:
        raise StartFailed(NO_CONTAINERS)

    def remove(self, container_id: str) -> None:
        """There never was one."""


def _outputs(places: Places) -> str:
    """Opened for reading too, so that a worker's end never breaks the writer."""
    return f"1<>{shlex.quote(str(places.stdout))} 2<>{shlex.quote(str(places.stderr))}"


def find_binary(name: str) -> str | None:
    """Where the runtime is installed."""
    return shutil.which(name, path=SEARCH_PATH) or shutil.which(name)


def _takes_filter(binary: str) -> bool:
    """A runtime that does not know the annotation would ignore it, and run without any filter."""
    return seccomp_filter.ANNOTATION.encode() in Path(binary).read_bytes()


def start_errors(log: Path) -> str:
    """The last error that the runtime wrote, in words for the container's owner; "" where there is none."""
    return explain(_last_error(log))


def _last_error(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            return line.strip()
        if isinstance(entry, dict) and entry.get("level", "error") in ("error", "fatal"):
            return str(entry.get("msg", "")).strip()
    return ""


def choose(wanted: str, possible: dict[str, str], state_root: Path, user_namespace: bool) -> Runtime:
    """The runtime to use. `possible` has each one's problem, "" where it works. Raises ContainersError."""
    if wanted and wanted not in possible:
        raise ContainersError(f"there is no runtime {wanted!r}; choose one of {', '.join(possible)}")
    if wanted and possible[wanted]:
        raise ContainersError(f"runtime {wanted} does not work here: {possible[wanted]}")
    for name in (wanted,) if wanted else tuple(possible):
        if possible[name]:
            continue
        if name == "host":
            return NoRuntime()
        binary = find_binary(name)
        assert binary is not None
        return OciRuntime(name, binary, state_root, user_namespace, _takes_filter(binary))
    raise ContainersError("no runtime works here: " + "; ".join(f"{name}: {why}" for name, why in possible.items()))
