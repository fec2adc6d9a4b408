"""The worker's own mount namespace: its overlay mounts are nobody else's, and vanish with it and its containers.

Without root it is a user namespace too, in which the worker is root over its own mounts and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from intermodal.worker.containers import delegation, kernel
from intermodal.worker.containers.cgroups import Mounts
from intermodal.worker.containers.delegation import Delegation
from intermodal.worker.containers.launch import ContainersError

UNIFIED = "/sys/fs/cgroup/unified"

_entered = False
_problem = ""
_delegation = Delegation()


def delegated() -> Delegation:
    """Where a worker without root makes its control groups; found by `enter_private_mounts`."""
    return _delegation


def in_user_namespace() -> bool:
    """Whether user ids here are mapped, so that root is not the machine's root."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except FileNotFoundError:
        return False


def enter_private_mounts() -> str:
    """Give this process a mount namespace of its own. Call it once, before any thread or event loop starts.

    `crun` refuses hosts with hybrid cgroups wherever it sees their cgroup2 tree, so that is unmounted here.
    Returns what prevented it, "" if nothing did; a later call returns the same.
    """
    global _entered, _problem
    if _entered:
        return _problem
    _entered = True
    try:
        if os.geteuid() == 0:
            kernel.unshare(kernel.CLONE_NEWNS)
        else:
            _enter_delegated_group()
            _enter_user_namespace()
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_SLAVE)
        _hide_unified()
    except (OSError, ContainersError) as error:
        _problem = f"no mount namespace of its own: {error}"
    return _problem


def _enter_delegated_group() -> None:
    """Before the user namespace, in which systemd would not know the user."""
    global _delegation
    mounts = Mounts.read()
    if mounts.mode != "v2" or mounts.unified is None:
        return
    user = delegation.User(os.geteuid(), _user_name())
    _delegation = delegation.enter(
        mounts.unified, user, delegation.ask_systemd, delegation.own_group, delegation.says_delegated
    )


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _hide_unified() -> None:
    if not os.path.isdir(UNIFIED):
        return
    try:
        kernel.umount(UNIFIED, kernel.MNT_DETACH)
    except OSError:
        # Mounts that came from a more privileged namespace are locked, but may be covered.
        if in_user_namespace():
            kernel.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", kernel.MS_RDONLY, "size=4k")


def _subordinate(path: str, name: str, number: int) -> tuple[int, int] | None:
    """The first range that /etc/subuid or /etc/subgid gives this user."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        parts = line.split(":")
        if len(parts) == 3 and parts[0] in (name, str(number)) and parts[1].isdigit() and parts[2].isdigit():
            return int(parts[1]), int(parts[2])
    return None


def _enter_user_namespace() -> None:
    """Become root of a new user namespace: with the user's subordinate ids where there are some, else with one id."""
    uid, gid, name = os.geteuid(), os.getegid(), _user_name()
    ranges = (_subordinate("/etc/subuid", name, uid), _subordinate("/etc/subgid", name, uid))
    if None not in ranges and shutil.which("newuidmap") and shutil.which("newgidmap"):
        _enter_with_ranges(uid, gid, ranges)
    else:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _enter_with_ranges(uid: int, gid: int, ranges: tuple[tuple[int, int] | None, ...]) -> None:
    """newuidmap must run outside the new namespace, so a child that stays there runs it for its parent."""
    parent = os.getpid()
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ready_write)
            os.read(ready_read, 1)
            for command, own, span in (("newuidmap", uid, ranges[0]), ("newgidmap", gid, ranges[1])):
                assert span is not None
                subprocess.run(
                    [command, str(parent), "0", str(own), "1", "1", str(span[0]), str(span[1])],
                    check=True,
                    capture_output=True,
                )
            status = 0
        finally:
            os._exit(status)
    os.close(ready_read)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    finally:
        os.close(ready_write)
        _, status = os.waitpid(child, 0)
    if status != 0:
        raise ContainersError("newuidmap or newgidmap failed; check /etc/subuid and /etc/subgid")
