"""What each kind of instruction does to the file system: it fills the upper directory of a new layer."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from intermodal.home import Home
from intermodal.worker.containers.launch import Bind
from intermodal.worker.images import debian, packages
from intermodal.worker.images.commands import Command, ContainerStarter, run
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import HostSettings, apt_proxy_options
from intermodal.worker.images.interpreters import SETTING, copy_into, find
from intermodal.worker.images.mounts import MountStore
from intermodal.worker.images.recipe import DEFAULT_SHELL, Instruction
from intermodal.worker.images.view import View
from modal._protocol.messages.image import ImageConfig

TOOLS = "/.intermodal/build"  # what a build step sees of this machine
PYTHON = "/usr/local/bin/python"

_APT_CONF = f"""Dir::State::lists "{TOOLS}/apt/lists/";
Dir::Cache "{TOOLS}/apt/cache/";
APT::Sandbox::User "root";
APT::Keep-Downloaded-Packages "true";
Acquire::Retries "3";
Dpkg::Use-Pty "0";
"""
_CHECK_PYTHON = (
    "import ssl, sqlite3, ctypes, zlib, bz2, lzma, hashlib, sysconfig, platform; print(platform.python_version())"
)


@dataclass
class Making:
    """One layer in the making."""

    instruction: Instruction
    config: ImageConfig  # of the image so far
    layers: list[Path]  # below, lowest first
    stage: Path  # a directory for the step; the layer itself is `stage/upper`
    secrets: dict[str, str]
    log: Callable[[str, str], None]  # a kind of BuildLog, and text

    @property
    def upper(self) -> Path:
        return self.stage / "upper"


@dataclass
class Made:
    """What a base says about itself; empty for other layers."""

    env: dict[str, str] = field(default_factory=dict)
    python: str = ""
    python_version: str = ""


class Steps:
    """Carries out instructions on one machine."""

    def __init__(
        self, home: Home, containers: ContainerStarter, mounts: MountStore, host: Callable[[], HostSettings]
    ) -> None:
        self._home = home
        self._containers = containers
        self._mounts = mounts
        self._host = host
        self._apt = asyncio.Lock()  # apt locks its directories, and gives up at once where they are locked

    async def make(self, making: Making) -> Made:
        """Fill `making.upper`. Raises StepError."""
        kind = making.instruction.kind
        if kind == "debian_slim":
            return await self._debian(making)
        if kind == "interpreter":
            return await self._interpreter(making)
        if kind == "copy":
            await asyncio.to_thread(self._copy, making)
        elif kind == "apt_install":
            async with self._apt:
                await self._apt_install(making)
        elif kind in ("pip_install", "pip_requirements"):
            await self._pip(making)
        elif kind == "run":
            shell = making.config.shell or DEFAULT_SHELL
            await self.run(making, [*shell, making.instruction.fields["command"]], self._caches())
        else:
            raise StepError(f"this worker cannot carry out the step {kind!r}")
        return Made()

    async def run(self, making: Making, argv: list[str], binds: list[Bind], env: dict[str, str] | None = None) -> None:
        """Run a command on the layers below; what it changes is the new layer.

        `env` goes before this machine's settings ("" takes one away); the image's variables and the
        secrets go before `env`.
        """
        host = self._host()
        given = {**self._environment(host), **(env or {})}
        command = Command(
            argv=argv,
            env={**{name: value for name, value in given.items() if value}, **making.config.env, **making.secrets},
            cwd=making.config.workdir or "/",
            layers=making.layers,
            upper=making.upper,
            binds=[*host.binds(), *binds],
            hide=list(making.secrets.values()),
        )
        await run(self._containers, self._home, command, lambda text: making.log("output", text))

    def _environment(self, host: HostSettings) -> dict[str, str]:
        return {
            **host.environment(),
            "HOME": "/root",
            "DEBIAN_FRONTEND": "noninteractive",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_CACHE_DIR": f"{TOOLS}/pip-cache",
            "UV_CACHE_DIR": f"{TOOLS}/uv-cache",
            "UV_LINK_MODE": "copy",  # a hard link cannot leave the cache's mount
        }

    def _caches(self) -> list[Bind]:
        return [self._cache(name) for name in ("uv-cache", "pip-cache")]

    def _cache(self, name: str, inside: str = "") -> Bind:
        path = self._home.cache / name
        path.mkdir(parents=True, exist_ok=True)
        return Bind(path, f"{TOOLS}/{inside or name}", read_only=False)

    async def _debian(self, making: Making) -> Made:
        minor = making.instruction.fields["python_version"]
        version = await debian.build(minor, making.stage, self._host(), making.log)
        return Made(debian.variables(version), PYTHON, version)

    async def _interpreter(self, making: Making) -> Made:
        """A Python of this machine, on top of a Debian release that lacks this version."""
        version = str(making.instruction.fields["version"])
        interpreter = find(version.rpartition(".")[0])
        if interpreter is None or interpreter.version != version:
            raise StepError(f"Python {version} is no longer on this machine")
        making.log("output", f"using Python {version} of {interpreter.prefix}\n")
        await asyncio.to_thread(copy_into, interpreter, making.upper)
        script = f"ldconfig && exec {PYTHON} -m ensurepip --upgrade --default-pip"
        try:
            await self.run(making, ["/bin/sh", "-ec", script], [], {"PIP_CONFIG_FILE": os.devnull})
            await self.run(making, [PYTHON, "-Wignore", "-c", _CHECK_PYTHON], [])
        except StepError as error:
            raise StepError(
                f"Python {version} of {interpreter.prefix} does not run on Debian "
                f"{debian.RELEASES[debian.FOR_OTHERS]} ({error.reason}): {SETTING} can name a directory with another",
                error.last_lines,
            ) from error
        return Made(debian.variables(version), PYTHON, version)

    async def _pip(self, making: Making) -> None:
        fields = making.instruction.fields
        binds = self._caches()
        uv = packages.uv_binary()
        if uv is not None:
            binds.append(Bind(uv, f"{TOOLS}/uv"))
        requirements = ""
        if "requirements" in fields:
            path = making.stage / "requirements.txt"
            path.write_text(fields["requirements"])
            requirements = f"{TOOLS}/requirements.txt"
            binds.append(Bind(path, requirements))
        tools = packages.Installer(making.config.python or "python", f"{TOOLS}/uv" if uv is not None else "")
        command = packages.install_command(fields, tools, self._host(), requirements)
        # Indexes are options here: as variables too, uv would ask each twice.
        doubled = {name: "" for name in self._host().environment() if name.startswith("UV_") and "INDEX" in name}
        await self.run(making, command, binds, {**doubled, "UV_FIND_LINKS": ""})

    async def _apt_install(self, making: Making) -> None:
        conf = making.stage / "apt.conf"
        conf.write_text("\n".join([_APT_CONF, *apt_proxy_options(), ""]))
        cache = self._cache(f"apt-{making.config.layers[0][:20]}", "apt")
        for name in ("lists/partial", "cache/archives/partial"):
            (cache.source / name).mkdir(parents=True, exist_ok=True)
        names = making.instruction.fields["packages"]
        script = 'apt-get update -q && exec apt-get install -y -q "$@"'
        binds = [cache, Bind(conf, f"{TOOLS}/apt.conf")]
        env = {"APT_CONFIG": f"{TOOLS}/apt.conf", "DEBIAN_FRONTEND": "noninteractive"}
        await self.run(making, ["/bin/sh", "-ec", script, "apt", *names], binds, env)

    def _copy(self, making: Making) -> None:
        """Put a set of files into the image, where its links lead, with its directories' own modes."""
        mount = self._mounts.path(making.instruction.fields["mount_id"])
        if not mount.is_dir():
            raise StepError(f"the files {mount.name} are not on this worker: run the program again to upload them")
        view = View(making.layers)
        for place, _directories, files in os.walk(mount):
            relative = os.path.relpath(place, mount)
            links = [name for name in _directories if os.path.islink(os.path.join(place, name))]
            target = view.resolve("" if relative == "." else relative)
            _make_directories(making.upper, target, view)
            for name in [*files, *links]:
                os.link(os.path.join(place, name), making.upper / target / name, follow_symlinks=False)


def _make_directories(upper: Path, relative: str, view: View) -> None:
    """Make a directory of a layer; where the image has it already, with the image's mode and owner."""
    done = ""
    for name in [part for part in relative.split("/") if part]:
        done = f"{done}/{name}" if done else name
        path = upper / done
        if path.is_dir():
            continue
        path.mkdir()
        path.chmod(0o755)
        node = view.lookup(done)
        if node is not None and node.is_directory:
            path.chmod(stat.S_IMODE(node.found.st_mode))
            if os.geteuid() == 0:
                shutil.chown(path, node.found.st_uid, node.found.st_gid)
