"""`micromamba` and `micromamba_install`: a conda environment at /opt/conda, on Debian.

Packages are found and put in place by py-rattler, which runs in the build container with Debian's Python, so that
prefixes in files and link scripts are those of the image.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images import conda_program
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import local_path
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.workshop import TOOLS, Workshop

PREFIX = "/opt/conda"
ALIAS_SETTING = "INTERMODAL_CONDA_CHANNELS"  # where channels lie: a URL or a directory
ALIAS = "https://conda.anaconda.org/"
BINARY_SETTING = "INTERMODAL_MICROMAMBA"  # a program of the worker's machine that base images get
DEFAULT_CHANNEL = "conda-forge"
DRIVER = "/usr/bin/python3"  # Debian's
UNDERNEATH = "3.11"  # the release whose Python drives the installation
_CHANNEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:+~%-]*\Z")


class Micromamba(Kind):
    name = "micromamba"
    base = True
    settings_matter = False
    required = {"python_version": str}

    def title(self, fields: Fields) -> str:
        return f"FROM micromamba with Python {fields['python_version']}"

    def parts(self, instruction: Instruction) -> list[Instruction]:
        specs = [f"python={instruction.fields['python_version']}", "pip"]
        fields = {"packages": specs, "channels": [DEFAULT_CHANNEL], "command": _binary_identity()}
        return [
            instruction.instead("debian_slim", {"python_version": UNDERNEATH}),
            instruction.instead("conda_environment", fields),
        ]


class MicromambaInstall(Kind):
    name = "micromamba_install"
    required = {"packages": list, "channels": list}

    def title(self, fields: Fields) -> str:
        channels = "".join(f" -c {channel}" for channel in fields["channels"])
        return f"RUN micromamba install -n base --yes{channels} {' '.join(fields['packages'])}"

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        if not making.config.python.startswith(PREFIX):
            raise StepError(
                "micromamba_install needs an image that begins with Image.micromamba(): this one has no conda "
                f"environment at {PREFIX}"
            )
        return await install(workshop, making)


class CondaEnvironment(Kind):
    """The environment of the base."""

    name = "conda_environment"
    internal = True
    settings_matter = False

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        made = await install(workshop, making)
        binary = _binary()
        if binary is not None:
            place = making.upper / "usr/local/bin/micromamba"
            place.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(shutil.copyfile, binary, place)
            place.chmod(0o755)
        if not made.python_version:
            raise StepError(f"the channel {DEFAULT_CHANNEL} has given an environment without Python")
        path = making.config.env.get("PATH", "")
        made.env = {"PATH": f"{PREFIX}/bin:{path}", "CONDA_PREFIX": PREFIX, "MAMBA_ROOT_PREFIX": PREFIX}
        return made


async def install(workshop: Workshop, making: Making) -> Made:
    """Put packages into the environment. Raises StepError."""
    library = _library()
    channels = list(making.fields["channels"]) or [DEFAULT_CHANNEL]
    for channel in channels:
        if not _CHANNEL.match(channel):
            raise StepError(f"{channel!r} is no channel: give a name such as conda-forge, or a URL")
    alias, binds = _alias()
    place = making.stage / "conda"
    place.mkdir()
    cache = workshop.cache("conda-cache")
    request = {
        "prefix": PREFIX,
        "cache": cache.target,
        "alias": alias,
        "channels": channels,
        "specs": making.fields["packages"],
    }
    (place / "request.json").write_text(json.dumps(request))
    inside = f"{TOOLS}/conda"
    binds += [
        *(cache, Bind(place, inside, read_only=False)),
        *(Bind(library, f"{TOOLS}/python/rattler"), Bind(Path(conda_program.__file__), f"{TOOLS}/conda_program.py")),
    ]
    words = [DRIVER, "-I", f"{TOOLS}/conda_program.py", f"{TOOLS}/python", f"{inside}/request.json", inside]
    try:
        await workshop.run(making, words, binds, cwd="/")
    except StepError as error:
        raise StepError(_explained(error, alias), error.last_lines) from None
    version = (place / "python").read_text().strip()
    return Made(python=f"{PREFIX}/bin/python" if version else "", python_version=version)


def _explained(error: StepError, alias: str) -> str:
    text = "\n".join(error.last_lines)
    if re.search(r"GatewayError|FetchRepoData|error sending request|dns error|RepodataNotFound", text):
        return (
            f"the channels could not be read at {alias}: is the network there? {ALIAS_SETTING} names a mirror "
            "(a URL or a directory that holds the channels)"
        )
    if "SolverError" in text:
        return "the packages cannot be installed together, or the channels lack one"
    if "InvalidMatchSpec" in text:
        return "a package is not named as conda has it, such as 'numpy' or 'pymc==5.10.4'"
    return error.reason


def _library() -> Path:
    spec = importlib.util.find_spec("rattler")
    if spec is None or spec.origin is None:
        raise StepError(
            "conda environments need the package py-rattler on the worker's machine: pip install 'intermodal[conda]'"
        )
    return Path(spec.origin).parent


def _alias() -> tuple[str, list[Bind]]:
    """Where channels lie, and what a container must see for that."""
    chosen = os.environ.get(ALIAS_SETTING) or ALIAS
    path = local_path(chosen)
    if path is None:
        return f"{chosen.rstrip('/')}/", []
    if not path.is_dir():
        raise StepError(f"{ALIAS_SETTING} names {path}, which is no directory")
    return f"{path.as_uri()}/", [Bind(path, str(path))]


def _binary() -> Path | None:
    """The program micromamba of this machine, for commands that images run themselves."""
    chosen = os.environ.get(BINARY_SETTING) or shutil.which("micromamba")
    path = Path(chosen).resolve() if chosen else None
    if path is not None and not path.is_file():
        raise StepError(f"{BINARY_SETTING} names {path}, which is no file")
    return path


def _binary_identity() -> str:
    binary = _binary()
    return f"{binary.stat().st_size}/{binary.stat().st_mtime_ns}" if binary is not None else ""


KINDS = [Micromamba(), MicromambaInstall(), CondaEnvironment()]
