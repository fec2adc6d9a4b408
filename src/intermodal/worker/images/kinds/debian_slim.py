"""`debian_slim`: a Debian release with its Python, or with an interpreter of this machine on top."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable

from intermodal.worker.images import debian, standalone
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.host import HostSettings
from intermodal.worker.images.interpreters import OLDEST, SETTING, copy_into, find, find_exactly
from intermodal.worker.images.kinds.builder_packages import parts_for
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.workshop import Workshop

PYTHON = "/usr/local/bin/python"
_VERSION = re.compile(r"(3\.\d{1,2})(\.\d+)?\Z")
_CHECK_PYTHON = (
    "import ssl, sqlite3, ctypes, zlib, bz2, lzma, hashlib, sysconfig, platform; print(platform.python_version())"
)

# From Python 3.12 on, `ensurepip` no longer brings setuptools, which packages of the time import (`pkg_resources`)
# without asking for it. Debian's own wheel of it is at hand; pip's variables of the machine have no say in it.
_TOOLS_REVISION = "2"
_TOOLS = f"""ldconfig
{PYTHON} -m ensurepip --upgrade --default-pip
set -- /usr/share/python-wheels/setuptools-*.whl
if [ -e "$1" ]; then {PYTHON} -m pip --isolated install -q --no-deps --no-index --root-user-action ignore "$1"; fi
"""


class DebianSlim(Kind):
    name = "debian_slim"
    base = True
    pinned = True
    settings_matter = False
    required = {"python_version": str}
    optional = {"builder_version": str}

    def title(self, fields: Fields) -> str:
        return "FROM base"

    async def prepare(self, workshop: Workshop, instruction: Instruction, log: Callable[[str, str], None]) -> None:
        match = _VERSION.match(instruction.fields["python_version"])
        if match and match[1] not in debian.RELEASES and int(match[1].partition(".")[2]) >= OLDEST:
            await standalone.ensure(match[1], log, tuple(debian.RELEASES))

    def parts(self, instruction: Instruction) -> list[Instruction]:
        """A base whose Python no Debian release has has one layer more; the builder version's packages are the last."""
        wanted = instruction.fields["python_version"]
        match = _VERSION.match(wanted)
        if not match:
            raise StepError(f"python_version must be like '3.11', not {wanted!r}")
        minor = match[1]
        if int(minor.partition(".")[2]) < OLDEST:
            raise StepError(f"Python {minor} is too old: images need 3.{OLDEST} or newer")
        base = minor if minor in debian.RELEASES else debian.FOR_OTHERS
        parts = [instruction.instead(self.name, {"python_version": base})]
        if minor not in debian.RELEASES:
            interpreter = find(minor)
            if interpreter is None:
                raise StepError(f"Python {minor} is no longer on this machine: build again")
            parts.append(instruction.instead("interpreter", {"version": interpreter.version}))
        return [*parts, *parts_for(instruction)]

    def inputs(self, instruction: Instruction, host: HostSettings) -> str:
        return debian.identity(instruction.fields["python_version"], host)

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        minor = making.fields["python_version"]
        version = await debian.build(minor, making.stage, workshop.host(), making.log)
        return Made(debian.variables(version), PYTHON, version)


class InterpreterOfHost(Kind):
    """A Python of this machine, on top of a Debian release that lacks this version."""

    name = "interpreter"
    pinned = True
    internal = True
    required = {"version": str}

    def inputs(self, instruction: Instruction, host: HostSettings) -> str:
        return _TOOLS_REVISION

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        version = str(making.fields["version"])
        interpreter = find_exactly(version)
        if interpreter is None:
            raise StepError(f"Python {version} is no longer on this machine")
        making.log("output", f"using Python {version} of {interpreter.prefix}\n")
        await asyncio.to_thread(copy_into, interpreter, making.upper)
        try:
            await workshop.run(making, ["/bin/sh", "-ec", _TOOLS], [], {"PIP_CONFIG_FILE": os.devnull})
            await workshop.run(making, [PYTHON, "-Wignore", "-c", _CHECK_PYTHON], [])
        except StepError as error:
            raise StepError(
                f"Python {version} of {interpreter.prefix} does not run on Debian "
                f"{debian.RELEASES[debian.FOR_OTHERS]} ({error.reason}): {SETTING} can name a directory with another",
                error.last_lines,
            ) from error
        return Made(debian.variables(version), PYTHON, version)


KINDS = [DebianSlim(), InterpreterOfHost()]
