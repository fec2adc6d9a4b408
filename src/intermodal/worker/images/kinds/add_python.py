"""`add_python`: a complete Python of this machine in an image that came with none, below /usr/local."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from intermodal.worker.images import debian, standalone
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.interpreters import SETTING, copy_into, find, find_exactly
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.relocate import relocate
from intermodal.worker.images.workshop import Workshop

PYTHON = "/usr/local/bin/python"
REVISION = 1
_CHECK = (
    "import ssl, sqlite3, ctypes, zlib, bz2, lzma, hashlib, sysconfig, pip, platform; print(platform.python_version())"
)


class AddPython(Kind):
    """Says which interpreter it will be."""

    name = "add_python"
    internal = True
    required = {"version": str}

    def title(self, fields: Fields) -> str:
        return f"ADD Python {fields['version']}"

    async def prepare(self, workshop: Workshop, instruction: Instruction, log: Callable[[str, str], None]) -> None:
        minor = ".".join(instruction.fields["version"].split(".")[:2])
        besides = ""
        if minor in debian.RELEASES:
            besides = (
                f'. `modal.Image.debian_slim("{minor}")` needs none: it has that of Debian {debian.RELEASES[minor]}'
            )
        await standalone.ensure(minor, log, besides=besides)

    def parts(self, instruction: Instruction) -> list[Instruction]:
        minor = ".".join(instruction.fields["version"].split(".")[:2])
        interpreter = find(minor)
        if interpreter is None:
            raise StepError(f"Python {minor} is no longer on this machine: build again")
        return [instruction.instead("added_python", {"version": interpreter.version, "revision": REVISION})]


class AddedPython(Kind):
    """Puts it in, with the libraries that it brings, so that the image needs a C library and nothing else."""

    name = "added_python"
    internal = True
    settings_matter = False

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        version = str(making.fields["version"])
        interpreter = find_exactly(version)
        if interpreter is None:
            raise StepError(f"Python {version} is no longer on this machine: build again")
        making.log("output", f"using Python {version} of {interpreter.prefix}\n")
        await asyncio.to_thread(copy_into, interpreter, making.upper)
        await asyncio.to_thread(relocate, making.upper / "usr/local", interpreter.minor)
        quiet = {"PIP_CONFIG_FILE": os.devnull}
        try:
            await workshop.run(making, [PYTHON, "-m", "ensurepip", "--upgrade", "--default-pip"], [], quiet)
            await workshop.run(making, [PYTHON, "-Wignore", "-c", _CHECK], [])
        except StepError as error:
            raise StepError(
                f"Python {version} of {interpreter.prefix} does not run on this image ({error.reason}): its C library "
                f"is older than this machine's, or another than glibc. {SETTING} can name a directory with a build "
                "that does, for instance one by `uv python install`",
                error.last_lines,
            ) from error
        path = making.config.env.get("PATH", "")
        env = {} if "/usr/local/bin" in path.split(":") else {"PATH": f"/usr/local/bin:{path}"}
        return Made(env, PYTHON, version)


KINDS = [AddPython(), AddedPython()]
