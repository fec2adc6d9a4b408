"""The root file system of `debian_slim`: a Debian release, its Python, pip and a compiler."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import shutil
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path

from intermodal.worker.images.failures import LAST_LINES, StepError
from intermodal.worker.images.host import HostSettings, apt_proxy_options

REVISION = 1  # change it when what is built below changes
RELEASES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
FOR_OTHERS = "3.11"  # the release under a Python that no release has
MIRROR_SETTING = "INTERMODAL_APT_MIRROR"  # URL of a mirror, or lines of a sources.list
SECURITY_SETTING = "INTERMODAL_APT_SECURITY_MIRROR"  # URL of a mirror of security updates
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
PACKAGES = [
    *("ca-certificates", "netbase", "tzdata", "media-types"),
    *("python3", "python3-venv", "python3-dev"),
    *("gcc", "g++", "make", "libc6-dev"),  # packages without a wheel are compiled
]
MEMORY_FOR_TMPFS = 4 << 20  # KiB that must be free for a build in memory, three times as fast
TMPFS_SIZE = "3g"
EATMYDATA = Path("/usr/share/mmdebstrap/hooks/eatmydata")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# The keys that sign CPython's releases, which the official images name.
RELEASE_KEYS = {
    "3.9": "E3FF2839C048B25C084DEBE9B26995E310250568",
    "3.10": "A035C8C19219BA821ECEA86B64E628F8D684696D",
    "3.11": "A035C8C19219BA821ECEA86B64E628F8D684696D",
    "3.12": "7169605F62C751356D054A26A821E680E5FA6305",
    "3.13": "7169605F62C751356D054A26A821E680E5FA6305",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_DPKG = """path-exclude=/usr/share/man/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
force-unsafe-io
"""
_APT = 'Acquire::Languages "none";\nAPT::AutoRemove::SuggestsImportant "false";\n'

_STARTED = r"""#!/bin/sh
set -eu
for name in bin sbin lib lib32 lib64 libx32; do
  mkdir -p "$1/usr/$name"
  ln -s "usr/$name" "$1/$name"
done
"""

_EXTRACTED = r"""#!/bin/sh
set -eu
unset TMPDIR
mkdir -p "$1/etc/dpkg/dpkg.cfg.d" "$1/etc/apt/apt.conf.d" "$1/usr/sbin"
cp "$INTERMODAL_BUILD/dpkg" "$1/etc/dpkg/dpkg.cfg.d/intermodal"
cp "$INTERMODAL_BUILD/apt" "$1/etc/apt/apt.conf.d/intermodal"
"""

_CUSTOMIZED = r"""#!/bin/sh
set -eu
unset TMPDIR
root="$1"
# No service starts in an image.
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
if [ -d "$INTERMODAL_BUILD/anchors" ]; then
  cp "$INTERMODAL_BUILD/anchors/"*.crt "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates
fi
python="$(chroot "$root" python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
rm -f "$root/usr/lib/$python/EXTERNALLY-MANAGED"
mkdir -p "$root/usr/local/bin" "$root/usr/local/lib/$python/dist-packages"
ln -s dist-packages "$root/usr/local/lib/$python/site-packages"
ln -s "/usr/bin/$python" "$root/usr/local/bin/python"
ln -s "/usr/bin/$python" "$root/usr/local/bin/python3"
wheels=/usr/share/python-wheels
pip="$(cd "$root" && ls .$wheels/pip-*.whl | head -n 1)"
names=pip
for name in setuptools wheel; do
  if ls "$root$wheels/$name"-*.whl >/dev/null 2>&1; then names="$names $name"; fi
done
chroot "$root" env PIP_CONFIG_FILE=/dev/null PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE= \
  "/usr/bin/$python" "${pip#.}/pip" install --no-index --find-links $wheels --no-cache-dir $names
rm -rf "$root/root/.cache" "$root/var/log/"*.log "$root/var/log/apt" "$root/var/cache/ldconfig/"* \
  "$root/var/cache/debconf/"*-old "$root/var/lib/dpkg/"*-old "$root/usr/share/man/"* "$root/usr/share/locale/"* \
  "$root/usr/share/info/"*
find "$root/usr/share/doc" -type f ! -name copyright -delete
: > "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
echo modal > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost\n' > "$root/etc/hosts"
chroot "$root" python3 -c 'import platform; print(platform.python_version())' > "$INTERMODAL_BUILD/version"
"""


# Apt's own user cannot get into the state directory: left to itself mmdebstrap finds that out, and warns. This is not
# for the image.
_AS_ROOT = 'APT::Sandbox::User "root"'


def identity(minor: str, host: HostSettings) -> str:
    """What else than the recipe decides the base: our own revision, the processor, the operator's certificates."""
    digest = hashlib.sha256()
    for anchor in host.anchors:
        digest.update(anchor.read_bytes())
    return f"{REVISION}/{RELEASES[minor]}/{os.uname().machine}/{digest.hexdigest()}"


def variables(version: str) -> dict[str, str]:
    """What the base sets in its containers."""
    env = {"PATH": PATH, "LANG": "C.UTF-8", "PYTHON_VERSION": version}
    key = RELEASE_KEYS.get(".".join(version.split(".")[:2]))
    if key:
        env["GPG_KEY"] = key
    return env


def sources(suite: str, environ: dict[str, str] | None = None, apt: Path = Path("/etc/apt")) -> list[str]:
    """Lines of a sources.list for a release: the operator's mirror, this machine's, or Debian's own."""
    environ = dict(os.environ) if environ is None else environ
    chosen = environ.get(MIRROR_SETTING, "").strip()
    if chosen.startswith("deb "):
        return chosen.splitlines()
    found = _mirrors(apt)
    mirror = chosen or found.get("debian") or MIRROR
    security = environ.get(SECURITY_SETTING) or found.get("security") or ("" if chosen else SECURITY_MIRROR)
    lines = [f"deb {mirror} {suite} main"]
    if suite in ("forky", "sid"):
        return lines  # has neither updates nor security while it is being made
    lines.append(f"deb {mirror} {suite}-updates main")
    if security and not (chosen and not environ.get(SECURITY_SETTING)):
        lines.append(f"deb {security} {suite}-security main")
    return lines


def _mirrors(apt: Path) -> dict[str, str]:
    """The Debian mirrors in this machine's apt sources."""
    found: dict[str, str] = {}
    paths = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    paths = [path for path in paths if path.suffix in (".list", ".sources") and path.is_file()]
    texts = [path.read_text(errors="replace") for path in paths]
    for url in re.findall(r"^(?:URIs:\s*|deb\s+(?:\[[^]]*\]\s+)?)((?:https?|file)://\S+)", "\n".join(texts), re.M):
        name = url.rstrip("/").rpartition("/")[2]
        if name == "debian":
            found.setdefault("debian", url.rstrip("/"))
        elif name == "debian-security":
            found.setdefault("security", url.rstrip("/"))
    return found


async def build(minor: str, stage: Path, host: HostSettings, progress: Callable[[str, str], None]) -> str:
    """Build the base into `stage/upper`; `progress` takes a kind of BuildLog and a line. Returns Python's version.

    Raises StepError where a tool is missing or Debian's mirror does not answer.
    """
    suite = RELEASES[minor]
    if shutil.which("mmdebstrap") is None:
        raise StepError(
            "mmdebstrap, which builds Debian images, is not installed. On Debian and Ubuntu:\n"
            "  apt-get install -y mmdebstrap debian-archive-keyring eatmydata"
        )
    if not KEYRING.exists() and not os.environ.get(MIRROR_SETTING, "").startswith("deb "):
        raise StepError(
            f"{KEYRING} is missing, so Debian's packages cannot be checked. On Debian and Ubuntu:\n"
            "  apt-get install -y debian-archive-keyring"
        )
    _write_inputs(stage, host)
    in_memory = _free_memory() >= MEMORY_FOR_TMPFS and os.geteuid() == 0
    script = _script(suite, stage, in_memory)
    code, last = await _run_script(script, stage, progress)
    if code != 0:
        raise StepError(_explain(suite, last, code), last)
    version = (stage / "version").read_text().strip()
    if not version.startswith(minor + "."):
        raise StepError(f"Debian {suite} has Python {version} now, not {minor}: its mirror moved on")
    return version


def _write_inputs(stage: Path, host: HostSettings) -> None:
    (stage / "dpkg").write_text(_DPKG)
    (stage / "apt").write_text(_APT)
    (stage / "apt-host").write_text("\n".join(apt_proxy_options()) + "\n")
    for name, text in (("started", _STARTED), ("extracted", _EXTRACTED), ("customized", _CUSTOMIZED)):
        (stage / name).write_text(text)
        (stage / name).chmod(0o755)
    if host.anchors:
        (stage / "anchors").mkdir()
        for number, anchor in enumerate(host.anchors):
            shutil.copyfile(anchor, stage / "anchors" / f"operator-{number}-{anchor.name}")


def _script(suite: str, stage: Path, in_memory: bool) -> str:
    """A shell script: in memory where there is enough, because dpkg waits for the disk at every file."""
    target = "$INTERMODAL_BUILD/memory/root" if in_memory else "$INTERMODAL_BUILD/upper"
    words = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "--format=directory"]
    words += ["--aptopt=" + line for line in _aptopts(stage, suite)]
    words += ["--extract-hook=" + str(stage / "extracted"), "--customize-hook=" + str(stage / "customized")]
    if not in_memory and EATMYDATA.is_dir() and shutil.which("eatmydata"):
        words.append(f"--hook-dir={EATMYDATA}")
    if suite == "bullseye":  # later releases have /bin as a link to /usr/bin by themselves
        words.append("--setup-hook=" + str(stage / "started"))
    if KEYRING.exists():
        words.append(f"--keyring={KEYRING}")
    command = " ".join(shlex.quote(word) for word in [*words, "--verbose", suite])
    places = " ".join(shlex.quote(line) for line in sources(suite))
    lines = ["set -eu"]
    if in_memory:
        lines += ['mkdir "$INTERMODAL_BUILD/memory"']
        lines += [f'mount -t tmpfs -o size={TMPFS_SIZE},mode=755 intermodal "$INTERMODAL_BUILD/memory"']
    lines += [f'{command} "{target}" {places}']
    lines += [f'sed -i {shlex.quote(f"/^{_AS_ROOT}/d")} "{target}/etc/apt/apt.conf.d/99mmdebstrap"']
    if in_memory:
        lines += [
            'echo "I: moving the image to disk..."',
            'cp -a "$INTERMODAL_BUILD/memory/root/." "$INTERMODAL_BUILD/upper/"',
        ]
    return "\n".join(lines)


def _aptopts(stage: Path, suite: str) -> list[str]:
    options = [line for line in (stage / "apt-host").read_text().splitlines() if line]
    options.append(_AS_ROOT)
    options.append('Acquire::Languages "none"')
    options.append('Acquire::Retries "3"')
    if suite in ("forky", "sid"):
        options.append('Acquire::Check-Valid-Until "false"')
    return options


async def _run_script(script: str, stage: Path, progress: Callable[[str, str], None]) -> tuple[int, list[str]]:
    """Run it so that nothing of it outlives us: neither process nor mount."""
    shield: list[str] = []
    if os.geteuid() == 0:
        # In mount and process namespaces of its own, which end with their first process, which ends with us.
        shield = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        shield.append("--mount-proc")
    # What this machine tells its own pip names files that the base does not have.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    # mmdebstrap's keys and the like: what a killed build leaves of them goes with its stage.
    temporary = stage / "tmp"
    temporary.mkdir(mode=0o755)
    env = {**kept, "INTERMODAL_BUILD": str(stage), "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    env["TMPDIR"] = str(temporary)
    process = await asyncio.create_subprocess_exec(
        *shield,
        "sh",
        "-c",
        script,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=env,
        cwd="/",
        start_new_session=True,
    )
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        assert process.stdout is not None
        async for data in process.stdout:
            line = data.decode(errors="replace").rstrip()
            if line:
                last.append(line)
                told = line[:3] in ("I: ", "E: ", "W: ") and not line.startswith("I: running --")
                progress("output" if told else "progress", line.removeprefix("I: ") + ("\n" if told else ""))
        return await process.wait(), list(last)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _free_memory() -> int:
    """KiB that could be used without swapping."""
    try:
        match = re.search(r"^MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return 0
    return int(match[1]) if match else 0


def _explain(suite: str, last: list[str], code: int) -> str:
    text = "\n".join(last)
    if "No space left on device" in text:
        return "no space is left on the disk: free some and build again"
    if re.search(r"Could not resolve|Could not connect|Failed to fetch|Temporary failure|404 +Not Found", text):
        return (
            f"Debian {suite} could not be fetched from {sources(suite)[0].split()[1]}: is the network there? "
            f"{MIRROR_SETTING} names another mirror, http_proxy a proxy"
        )
    return f"mmdebstrap ended with exit code {code}"
