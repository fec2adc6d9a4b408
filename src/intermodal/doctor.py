"""What this machine can do for containers, why not, and the one command that adds what is missing."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intermodal.home import Home

TRIAL_WITHIN = 90.0  # seconds
DISK_WANTED = 5  # GiB free for images
FILES_WANTED = 4096  # open files of a worker with a few hundred containers
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MIRROR_CA = "/etc/ssl/certs/ca-certificates.crt"

DELEGATE = (
    "mkdir -p /etc/systemd/system/user@.service.d; printf '[Service]\\nDelegate=cpu memory pids\\n' "
    ">/etc/systemd/system/user@.service.d/delegate.conf; systemctl daemon-reload; log in again"
)


@dataclass(frozen=True)
class Check:
    """One finding. `required` is False where Intermodal works without it, less well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""  # a command, or what to do
    required: bool = True


def report(home: Home) -> list[Check]:
    """Every check, the ones that matter most first. Takes about a second: a container is really started."""
    trial = _trial(home)
    checks = [_trial_check(trial)]
    checks += _runtime_checks(trial)
    checks += [
        _overlay(trial),
        _cgroups(trial),
        _disks(trial),
        _layers(trial),
        _gpus(trial),
        _user_namespaces(),
        _nftables(),
        _forwarding(),
        _other_firewall(),
        _dns(trial),
        _python(),
        _disk(home),
        _open_files(),
        _mmdebstrap(),
        _bucket_mounts(),
        _leftovers(),
        _certificates(),
        *_shown_certificates(home),
        _clock(),
    ]
    return checks


def _leftovers() -> Check:
    found = leftovers()
    if found:
        detail = f"of workers that were killed, and whose state directory is gone: {', '.join(found)}"
        return Check("leftovers", False, detail, "intermodal doctor --clean", required=False)
    return Check("leftovers", True, "none of state directories that are gone", required=False)


def leftovers(remove: bool = False) -> list[str]:
    """State directories that are gone, of which containers, bridges or control groups are left; removed on demand."""
    command = [sys.executable, "-m", "intermodal.worker.containers.leftovers", *(["--remove"] if remove else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return []
    return done.stdout.splitlines()


def _bucket_mounts() -> Check:
    missing = [name for name in ("rclone", "fusermount3") if _find(name) is None]
    if not os.path.exists("/dev/fuse"):
        return Check("bucket mounts", False, "there is no /dev/fuse", "modprobe fuse", required=False)
    if missing:
        detail = f"{' and '.join(missing)} not found: modal.CloudBucketMount cannot be used"
        return Check("bucket mounts", False, detail, _install("rclone fuse3"), required=False)
    return Check("bucket mounts", True, "rclone and FUSE", required=False)


def _shown_certificates(home: Home) -> list[Check]:
    """What the server that runs shows to clients."""
    from intermodal import lifecycle
    from modal._protocol.errors import Fault, WireError

    try:
        found = lifecycle.status(home, disk=False)
    except (Fault, WireError):
        return []
    return [
        Check(
            "TLS",
            not shown["problem"],
            shown["problem"] or f"{', '.join(shown['names'])}, from {shown['path']}",
            shown.get("help", "renew it; a changed file is taken over by itself"),
            required=False,
        )
        for shown in (found or {}).get("certificates", ())
    ]


def _find(name: str) -> str | None:
    return shutil.which(name, path=SEARCH_PATH) or shutil.which(name)


def _install(package: str) -> str:
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install -y {package}"


def _trial(home: Home) -> dict[str, Any]:
    """What the trial process found; with "failed" when it did not get to say."""
    if platform.system() != "Linux":
        return {"failed": f"containers need Linux; this is {platform.system()}"}
    command = [sys.executable, "-m", "intermodal.worker.containers.trial", str(home.path)]
    env = {name: value for name, value in os.environ.items() if name != "INTERMODAL_RUNTIME"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_WITHIN, check=False, env=env)
    except subprocess.TimeoutExpired:
        return {"failed": f"the trial did not end within {TRIAL_WITHIN:.0f} s"}
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"the trial ended with {done.returncode}"}
    return found if isinstance(found, dict) else {"failed": "the trial gave no answer"}


def _trial_check(trial: dict[str, Any]) -> Check:
    if "failed" in trial:
        return Check("containers", False, trial["failed"], "see the checks below")
    if not trial["milliseconds"]:
        return Check("containers", False, trial["start"], "see the checks below")
    took = f"one started in {trial['milliseconds']:.0f} ms"
    if trial["user_namespace"]:
        took += ", without root"
    return Check("containers", True, f"{took}; {trial['start']}" if trial["start"] else took)


def _runtime_checks(trial: dict[str, Any]) -> list[Check]:
    checks = []
    for name, problem in trial.get("runtimes", {}).items():
        if name == "host":
            continue  # what a worker calls it that has none
        remedy = _install(name) if _find(name) is None else ""
        checks.append(Check(f"runtime {name}", not problem, problem or _version(name), remedy, required=name == "crun"))
    return checks


def _version(name: str) -> str:
    binary = _find(name)
    if binary is None:
        return ""
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.stdout else binary


def _overlay(trial: dict[str, Any]) -> Check:
    problem = trial.get("overlay", "not tried")
    remedy = "modprobe overlay; or put INTERMODAL_HOME on ext4, xfs, btrfs or tmpfs" if problem else ""
    return Check("overlay mounts", not problem, problem or "work below the state directory", remedy)


def _cgroups(trial: dict[str, Any]) -> Check:
    mode = trial.get("cgroups", "none")
    if mode == "none":
        return Check(
            "control groups", False, "none are mounted: no limits", "mount -t cgroup2 none /sys/fs/cgroup", False
        )
    if os.geteuid() != 0:
        return _delegated_cgroups(mode, trial)
    words = {"v1": "v1", "v2": "v2", "hybrid": "hybrid (v1, with a v2 tree that the worker hides from crun)"}
    return Check("control groups", True, words.get(mode, mode))


def _delegated_cgroups(mode: str, trial: dict[str, Any]) -> Check:
    """Those of a user: see `worker.containers.delegation`."""
    name = "control groups"
    if mode != "v2":
        detail = f"{mode}; users have none of these, so limits are only those of each process"
        remedy = "boot with systemd.unified_cgroup_hierarchy=1, whose groups systemd lets users have; or run as root"
        return Check(name, False, detail, remedy, False)
    held = trial.get("limits", [])
    missing = [one for one in ("cpu", "memory", "pids") if one not in held]
    if not missing:
        return Check(name, True, "v2; limits of cpu, memory and pids hold, in a group of the user's systemd")
    problem = trial.get("limits_problem", "")
    if problem or not held:
        detail = f"v2; {problem or 'there are none'}: limits are only those of each process"
        return Check(name, False, detail, trial.get("limits_remedy", ""), False)
    detail = f"v2; limits of {', '.join(held)} hold; systemd lets users have no {', '.join(missing)}"
    return Check(name, False, detail, DELEGATE, False)


def _disks(trial: dict[str, Any]) -> Check:
    problem = trial.get("disks", "not tried")
    remedy = _install("e2fsprogs") if "mkfs.ext4" in problem else ""
    return Check(
        "disks of containers", not problem, problem or "have a limit (ephemeral_disk=)", remedy, required=False
    )


def _layers(trial: dict[str, Any]) -> Check:
    why = trial.get("unpacks", "not tried")
    detail = f"unpacked, which takes longer: {why}" if why else "mounted as they are (docs/images.md)"
    return Check("layers of registries", True, detail, required=False)


def _gpus(trial: dict[str, Any]) -> Check:
    kinds, problem = trial.get("gpus", []), trial.get("gpu_problem", "")
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    if problem and not kinds:
        return Check("GPUs", False, problem, "see `nvidia-smi`", required=False)
    if not kinds:
        return Check("GPUs", True, "none (no NVIDIA driver); functions with gpu= are refused", required=False)
    how = problem or f"given to containers by {trial.get('gpu_source', '')}"
    return Check("GPUs", True, f"{counted}; {how}", required=False)


def _user_namespaces() -> Check:
    needed = os.geteuid() != 0
    if not needed:
        return Check("user namespaces", True, "not needed by root", required=False)
    done = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        if _find("newuidmap") is None:
            detail = "work, with one user id alone: packages that need more (apt) will not install"
            return Check("user namespaces", False, detail, _install("uidmap"), False)
        return Check("user namespaces", True, "work")
    for setting, value in (
        ("kernel/unprivileged_userns_clone", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ("user/max_user_namespaces", "15000"),
    ):
        path = Path("/proc/sys") / setting
        if path.exists() and path.read_text().strip() != value:
            remedy = f"sudo sysctl -w {setting.replace('/', '.')}={value}"
            return Check("user namespaces", False, done.stderr.strip(), remedy)
    return Check("user namespaces", False, done.stderr.strip() or "refused", "run the worker as root")


def _nftables() -> Check:
    if os.geteuid() != 0:
        return Check("nftables", True, "not used without root: containers share this machine's network", required=False)
    nft = _find("nft")
    if nft is None:
        return Check("nftables", False, "nft is missing: containers get no network", _install("nftables"))
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return Check("nftables", done.returncode == 0, done.stderr.strip() or "works")


def _forwarding() -> Check:
    if os.geteuid() != 0:
        return Check("forwarding", True, "not used without root", required=False)
    path = Path("/proc/sys/net/ipv4/ip_forward")
    if path.exists() and path.read_text().strip() == "1":
        return Check("forwarding", True, "on")
    if path.exists() and os.access(path, os.W_OK):
        return Check("forwarding", True, "off; the worker turns it on")
    return Check("forwarding", False, "off, and not to be changed here", "sysctl -w net.ipv4.ip_forward=1")


def _other_firewall() -> Check:
    """Another firewall may drop what ours lets pass: a packet must please every one of them."""
    iptables = _find("iptables")
    if os.geteuid() != 0 or iptables is None:
        return Check("other firewalls", True, "none was looked for", required=False)
    done = subprocess.run([iptables, "-S", "FORWARD"], capture_output=True, text=True, check=False)
    if "-P FORWARD DROP" in done.stdout and " -i im+ " not in done.stdout:
        remedy = "iptables -I FORWARD -i im+ -j ACCEPT; iptables -I FORWARD -o im+ -j ACCEPT"
        return Check("other firewalls", False, "iptables drops forwarded packets (as Docker sets it up)", remedy)
    return Check("other firewalls", True, "none drops forwarded packets", required=False)


def _dns(trial: dict[str, Any]) -> Check:
    if trial.get("servers"):
        return Check("DNS", True, f"containers ask {', '.join(trial['servers'])}")
    if trial.get("loopback"):
        return Check("DNS", True, f"containers ask {trial['loopback']} of this machine, by way of the bridge")
    if "failed" in trial:
        return Check("DNS", False, "not tried", "see the check of containers", False)
    return Check("DNS", False, "/etc/resolv.conf names no IPv4 server", "add a nameserver line to /etc/resolv.conf")


def _python() -> Check:
    version = platform.python_version()
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, f"{version} at {sys.executable}", "" if ok else _install("python3.11"))


def _disk(home: Home) -> Check:
    place = home.path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1024**3
    remedy = "" if free >= DISK_WANTED else f"make room, or set INTERMODAL_HOME to a place with {DISK_WANTED} GiB"
    return Check("disk space", free >= DISK_WANTED, f"{free:.0f} GiB free for {home.path}", remedy, free < 1)


def _open_files() -> Check:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    ok = hard == resource.RLIM_INFINITY or hard >= FILES_WANTED
    remedy = "" if ok else f"ulimit -Hn {FILES_WANTED} before the worker starts"
    return Check("open files", ok, f"up to {hard} a process", remedy, required=False)


def _mmdebstrap() -> Check:
    if _find("mmdebstrap"):
        return Check("mmdebstrap", True, "base images can be built")
    return Check("mmdebstrap", False, "missing: Image.debian_slim() cannot be built", _install("mmdebstrap"))


def _certificates() -> Check:
    paths = ssl.get_default_verify_paths()
    bundle = next((path for path in (os.environ.get("SSL_CERT_FILE"), MIRROR_CA, paths.cafile) if path), "")
    ok = bool(bundle) and Path(bundle).exists()
    return Check("CA certificates", ok, bundle if ok else "no bundle found", "" if ok else _install("ca-certificates"))


def _clock() -> Check:
    """A clock far behind makes certificates and package indexes look not yet valid."""
    ok = time.time() > Path(__file__).stat().st_mtime - 86_400
    detail = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return Check(
        "clock", ok, detail if ok else f"{detail} is before this program was installed", "" if ok else "set the date"
    )
