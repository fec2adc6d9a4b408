"""`pip_install` and `pip_requirements`: Python packages."""

from __future__ import annotations

import re
import shlex
from typing import Any

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images import packages
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.workshop import TOOLS, Workshop

OPTIONS = ("find_links", "index_url", "extra_index_url", "pre", "extra_options")


class PipInstall(Kind):
    name = "pip_install"
    required = {"packages": list}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return super().lines(step) if step["packages"] else []

    def fields(self, step: Fields) -> Fields:
        return {**super().fields(step), **{name: step[name] for name in OPTIONS if step.get(name)}}

    def title(self, fields: Fields) -> str:
        words = [shlex.quote(package) for package in fields["packages"]]
        return " ".join(["RUN python -m pip install", *words, *option_words(fields)])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        await install(workshop, making)
        return None


class PipRequirements(PipInstall):
    name = "pip_requirements"
    required = {"requirements": str}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return Kind.lines(self, step)

    def title(self, fields: Fields) -> str:
        return " ".join(["RUN python -m pip install -r requirements.txt", *option_words(fields)])


async def install(workshop: Workshop, making: Making) -> None:
    fields = making.fields
    binds = workshop.caches()
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
    command = packages.install_command(fields, tools, workshop.host(), requirements)
    # Indexes are options here: as variables too, uv would ask each twice.
    doubled = {name: "" for name in workshop.host().environment() if name.startswith("UV_") and "INDEX" in name}
    await workshop.run(making, command, binds, {**doubled, "UV_FIND_LINKS": ""})


def option_words(fields: Fields) -> list[str]:
    """The options of an installation as a log may show them."""
    words = []
    for name, option in (("find_links", "--find-links"), ("index_url", "--index-url")):
        if fields.get(name):
            words += [option, hide_password(str(fields[name]))]
    extra: Any = fields.get("extra_index_url") or []
    for url in [extra] if isinstance(extra, str) else extra:
        words += ["--extra-index-url", hide_password(url)]
    if fields.get("pre"):
        words.append("--pre")
    if fields.get("extra_options"):
        words.append(str(fields["extra_options"]))
    return words


def hide_password(url: str) -> str:
    """A URL as logs may show it."""
    return re.sub(r"(?<=://)([^/@]*)@", "***@", url)


KINDS = [PipInstall(), PipRequirements()]
