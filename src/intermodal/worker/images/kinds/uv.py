"""`uv_sync`, and where steps get uv from: the one of this installation, or the version that a step names."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
from pathlib import Path

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images import packages
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.workshop import TOOLS, Workshop

UV = f"{TOOLS}/uv"
PROJECT = "/.uv"  # where a synchronised project lies in the image; its environment is below
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?\Z")


class UvSync(Kind):
    """The dependencies of a uv project, in an environment whose Python becomes the image's."""

    name = "uv_sync"
    required = {"pyproject": str}
    optional = {
        "lock": str,
        "groups": list,
        "extras": list,
        "frozen": bool,
        "extra_options": str,
        "uv_version": str,
    }

    def title(self, fields: Fields) -> str:
        return " ".join(["RUN uv sync", *_options(fields)])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        fields = making.fields
        python = making.config.python or "python"
        place = f"{PROJECT}/.venv"
        uv, binds = await install_uv(workshop, making, fields.get("uv_version") or "")
        await asyncio.to_thread(_write, making.upper / PROJECT.strip("/"), fields)
        try:
            extra = shlex.split(str(fields.get("extra_options") or ""))
        except ValueError as error:
            raise StepError(f"extra_options {fields['extra_options']!r} is not a list of options: {error}") from None
        options = [*_options({**fields, "extra_options": ""}), *extra]
        env = {"UV_PROJECT_ENVIRONMENT": place, "UV_PYTHON_DOWNLOADS": "never", "UV_PYTHON": python}
        command = [uv, "sync", "--project", PROJECT, *options]
        await workshop.run(making, command, [*workshop.caches(), *binds], env, cwd="/")
        path = making.config.env.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        variables = {"PATH": f"{place}/bin:{path}", "VIRTUAL_ENV": place}
        return Made(variables, f"{place}/bin/python", making.config.python_version)


def _options(fields: Fields) -> list[str]:
    words = ["--no-install-workspace", "--compile-bytecode"]
    if fields.get("frozen"):
        words.append("--frozen")
    for group in fields.get("groups") or []:
        words += ["--group", group]
    for extra in fields.get("extras") or []:
        words += ["--extra", extra]
    if fields.get("extra_options"):
        words.append(str(fields["extra_options"]))
    return words


def _write(project: Path, fields: Fields) -> None:
    project.mkdir(mode=0o755, exist_ok=True)
    (project / "pyproject.toml").write_text(fields["pyproject"])
    if fields.get("lock"):
        (project / "uv.lock").write_text(fields["lock"])


def uv_bind() -> Bind | None:
    """This installation's uv at `UV`, None where it has none."""
    uv = packages.uv_binary()
    return Bind(uv, UV) if uv is not None else None


async def install_uv(workshop: Workshop, making: Making, version: str) -> tuple[str, list[Bind]]:
    """The path of uv in the container and the binds that put it there. Raises StepError."""
    if not version:
        bind = uv_bind()
        if bind is None:
            raise StepError("uv is not part of this worker's installation: name a version with uv_version=")
        return UV, [bind]
    if not _VERSION.match(version):
        raise StepError(f"uv_version={version!r} is no version: use for instance '0.5.0'")
    cache = workshop.cache("uv-versions")
    place = f"{cache.target}/{version}"
    binary = cache.source / version / "bin/uv"
    async with workshop.alone(f"uv-{version}"):
        if not binary.exists():
            await asyncio.to_thread(shutil.rmtree, cache.source / version, ignore_errors=True)
            scratch = making.stage / "uv-upper"
            python = making.config.python or "python"
            command = [python, "-m", "pip", "install", "--no-deps", "--target", place, f"uv=={version}"]
            await workshop.run(making, command, [*workshop.caches(), cache], upper=scratch)
    return f"{place}/bin/uv", [Bind(cache.source, cache.target)]


KINDS = [UvSync()]
