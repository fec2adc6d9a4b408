"""Control groups for a worker without root, where systemd lets a user have some (v2 alone).

A process may make groups where its user owns the group that it is in, and no process may stay in a group whose groups
have limits. So the worker goes into a group of its own, `worker`, below one that is the user's: that of the unit in
which it was started, where systemd delegates it (`Delegate=yes`), else a new scope of the user's own systemd. It asks
for one only where that lives on without a login (lingering), because else the worker would end with the last one.

Systemd marks the groups that it delegates for users to read since version 251 alone: where there is no mark, it is
asked. The unit's group may be above the process's own (`DelegateSubgroup=`, or what a service has made).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

LEAF = "worker"
UNITS = (".service", ".scope", ".slice")  # how the groups are named that systemd makes
DESTINATION = "org.freedesktop.systemd1"
MANAGER = ("/org/freedesktop/systemd1", f"{DESTINATION}.Manager")
SYSTEMD = Path("/run/systemd/system")  # is there where it runs
LINGERING = Path("/var/lib/systemd/linger")
WITHIN = 5.0  # seconds that systemd has to answer
LOOK_SECONDS = 0.01  # between looks whether it has moved this process


class Delegation(NamedTuple):
    """The group below which this process may make others; or why there is none, and what to do."""

    base: Path | None = None
    problem: str = ""
    remedy: str = ""


class User(NamedTuple):
    """Who asks, outside of any user namespace."""

    uid: int
    name: str

    @property
    def lingers(self) -> bool:
        return (LINGERING / self.name).exists()

    @property
    def runtime_dir(self) -> Path:
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{self.uid}")


def enter(
    unified: Path,
    user: User,
    ask: Callable[[User], str],
    own: Callable[[], str],
    says: Callable[[User, str], bool],
) -> Delegation:
    """Go where groups can be made.

    `ask` systemd for a scope (why there is none); `own` tells which group this is in; `says`: whether systemd says that
    it delegates the group of that name. To be called outside of a user namespace: systemd would not know who asks.
    """
    here = _below(unified, own())
    if here.name == LEAF and is_writable(here.parent):
        return Delegation(here.parent)  # a second time
    unit = unit_of(own())
    here = _below(unified, unit)
    if not (is_writable(here) and (is_marked(here) or says(user, unit))):
        found = _new_scope(unified, user, ask, own)
        if found.base is None:
            return found
        here = found.base
    try:
        _move_down(here)
    except OSError as error:
        return Delegation(None, f"the group {here} cannot be used: {error}", "run the server as root")
    return Delegation(here)


def _new_scope(unified: Path, user: User, ask: Callable[[User], str], own: Callable[[], str]) -> Delegation:
    if not SYSTEMD.exists():
        return Delegation(
            None, "this machine does not run systemd, which lets users have some", "run the server as root"
        )
    if not user.lingers:
        return Delegation(
            None,
            f"systemd ends what belongs to {user.name} at the last logout, so no group is asked for",
            f"loginctl enable-linger {user.name}, then `intermodal down` and `intermodal up`",
        )
    before = own()
    problem = ask(user)
    if problem:
        return Delegation(
            None,
            f"the user's systemd gives no group: {problem}",
            "apt-get install dbus-user-session systemd, and see `systemctl --user status`",
        )
    deadline = time.monotonic() + WITHIN
    while own() == before:
        if time.monotonic() > deadline:
            problem = "the user's systemd did not move the worker to a group of its own"
            return Delegation(None, problem, "`systemctl --user status`")
        time.sleep(LOOK_SECONDS)
    here = _below(unified, own())
    if not is_writable(here):
        return Delegation(None, f"the group {here} that systemd made cannot be written to", "run the server as root")
    return Delegation(here)


def unit_of(group: str) -> str:
    """The group of the innermost unit that a group is, or is below; itself where it is below none."""
    path = PurePosixPath(group)
    return str(next((one for one in (path, *path.parents) if one.suffix in UNITS), path))


def is_marked(directory: Path) -> bool:
    """Whether systemd has noted at this group that whoever lives in it may divide it."""
    try:
        return os.getxattr(directory, "user.delegate") == b"1"
    except OSError:  # no such mark
        return False


def is_writable(directory: Path) -> bool:
    """Whether this user may make groups below, move processes, and pass controllers on."""
    names = ("", "cgroup.procs", "cgroup.subtree_control")
    return all(os.access(directory / name, os.W_OK) for name in names)


def _move_down(base: Path) -> None:
    """Every process of the group into the leaf: only then may the groups below have limits."""
    leaf = base / LEAF
    leaf.mkdir(exist_ok=True)
    for pid in (base / "cgroup.procs").read_text().split():
        try:
            (leaf / "cgroup.procs").write_text(pid)
        except ProcessLookupError:  # it has ended
            continue


def own_group() -> str:
    """The path of this process's v2 group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def _below(unified: Path, group: str) -> Path:
    return unified / group.lstrip("/")


def says_delegated(user: User, group: str) -> bool:
    """Whether the user's systemd, or the machine's, has a unit with this group and delegates it."""
    if not SYSTEMD.exists():
        return False
    name = PurePosixPath(group).name
    kind = name.rpartition(".")[2].capitalize()
    for bus in ("--user", "--system"):
        found, unit = _busctl(user, bus, "call", DESTINATION, *MANAGER, "GetUnit", "s", name)
        if not found:
            continue
        path = shlex.split(unit)[-1]
        found, properties = _busctl(
            user, bus, "get-property", DESTINATION, path, f"{DESTINATION}.{kind}", "ControlGroup", "Delegate"
        )
        if found and [shlex.split(line) for line in properties.splitlines()] == [["s", group], ["b", "true"]]:
            return True
    return False


def ask_systemd(user: User) -> str:
    """Have the user's systemd move this process to a new scope that is its own; what prevents that, or ""."""
    pid = os.getpid()
    done, said = _busctl(
        user, "--user", "call", DESTINATION, *MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))",
        f"intermodal-worker-{pid}-{time.monotonic_ns()}.scope", "fail",
        "4", "PIDs", "au", "1", str(pid), "Delegate", "b", "true", "CollectMode", "s", "inactive-or-failed",
        "Description", "s", "Intermodal's worker and its containers", "0",
    )  # fmt: skip
    return "" if done else said


def _busctl(user: User, *arguments: str) -> tuple[bool, str]:
    """Whether it succeeded, and what it printed; else what prevented that."""
    runtime = user.runtime_dir
    env = {
        **os.environ,
        "XDG_RUNTIME_DIR": str(runtime),
        "DBUS_SESSION_BUS_ADDRESS": os.environ.get("DBUS_SESSION_BUS_ADDRESS") or f"unix:path={runtime}/bus",
    }
    command = ["busctl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False, env=env)
    except FileNotFoundError:
        return False, "there is no `busctl`"
    except subprocess.TimeoutExpired:
        return False, f"it did not answer within {WITHIN:.0f} s"
    if done.returncode == 0:
        return True, done.stdout
    problem = done.stderr.strip()
    return False, problem.splitlines()[-1] if problem else f"busctl ended with {done.returncode}"
