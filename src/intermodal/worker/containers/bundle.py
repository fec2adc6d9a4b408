"""The OCI configuration of one container, as `crun` and `runc` read it."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

from intermodal.worker.containers import seccomp, seccomp_filter
from intermodal.worker.containers.launch import Device, Launch

CAPABILITIES = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
]
MASKED = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 65_536  # at most; a lower hard limit of the worker's own stays
OOM_SCORE = 100  # so that the kernel takes the program before the runtime process that shares its group


def configuration(
    launch: Launch,
    root: Path,
    files: Path,
    *,
    seccomp_ready: bool,
    user_namespace: bool,
    share_network: bool,
    cgroup_path: str,
    memory_by_rlimit: bool,
) -> bytes:
    """`config.json`.

    `files` has resolv.conf, hosts and hostname. `seccomp_ready`: give the compiled filter, not the profile.
    `share_network`: keep the network namespace that the runtime is started in. `memory_by_rlimit`: there is no
    control group to limit memory.
    """
    linux = _linux(share_network, cgroup_path)
    if launch.devices:
        linux["devices"] = [_device(device) for device in launch.devices]
    config = {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": False},
        "hostname": launch.hostname,
        "process": _process(launch, memory_by_rlimit),
        "mounts": _mounts(launch, files, user_namespace),
        "linux": linux,
    }
    if launch.hooks:
        config["hooks"] = launch.hooks
    if seccomp_ready:
        config["annotations"] = {seccomp_filter.ANNOTATION: seccomp_filter.compiled()}
    elif seccomp.profile() is not None:
        linux["seccomp"] = seccomp.profile()
    return json.dumps(config, separators=(",", ":")).encode()


def _process(launch: Launch, memory_by_rlimit: bool) -> dict[str, Any]:
    env = {"PATH": DEFAULT_PATH, "HOME": "/root", **launch.env}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    rlimits = [
        {"type": "RLIMIT_NOFILE", "soft": files, "hard": files},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    if memory_by_rlimit and launch.limits.memory:
        size = launch.limits.memory * 1024 * 1024
        rlimits.append({"type": "RLIMIT_DATA", "soft": size, "hard": size})
    user = launch.user
    own = CAPABILITIES if user.uid == 0 else []  # who is not root has no powers
    return {
        "terminal": False,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": launch.argv,
        "env": [f"{name}={value}" for name, value in env.items()],
        "cwd": launch.cwd,
        "capabilities": {"bounding": CAPABILITIES, "effective": own, "permitted": own},
        "rlimits": rlimits,
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE,
    }


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _mounts(launch: Launch, files: Path, user_namespace: bool) -> list[dict[str, Any]]:
    shared_memory = [f"size={launch.limits.memory}m"] if launch.limits.memory else []
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not user_namespace:
        terminals.append("gid=5")
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=4m"),
        _mount("/dev/pts", "devpts", "devpts", *terminals),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", *shared_memory),  # noqa: S108 - the container's
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]
    if user_namespace:  # a new one may not be mounted: the network it shows belongs to the machine
        mounts.append(_mount("/sys", "none", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro"))
    else:
        mounts.append(_mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"))
    mounts += [
        _mount(f"/etc/{name}", "bind", str(files / name), "bind", "rprivate", "rw", "nosuid", "nodev")
        for name in ("resolv.conf", "hosts", "hostname")
    ]
    for bind in launch.binds:
        access = "ro" if bind.read_only else "rw"
        mounts.append(_mount(bind.target, "bind", str(bind.source), "rbind", "rprivate", access, "nosuid", "nodev"))
    return mounts


def _device(device: Device) -> dict[str, Any]:
    found = device.source.stat()
    return {
        "path": device.target,
        "type": "c",
        "major": os.major(found.st_rdev),
        "minor": os.minor(found.st_rdev),
        "fileMode": 0o666,  # who may use it is decided by whom it is given to
        "uid": 0,
        "gid": 0,
    }


def _linux(share_network: bool, cgroup_path: str) -> dict[str, Any]:
    kinds = ["pid", "mount", "uts", "ipc", "cgroup"]
    if not share_network:
        kinds.append("network")
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in kinds],
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
        "resources": {},
    }
    if cgroup_path:
        linux["cgroupsPath"] = cgroup_path
    return linux
