"""Python packages: `pip_install`, `pip_requirements`, `uv_pip_install` and `pip_private_repos`."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Any

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images import packages
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.kinds.uv import UV, install_uv, uv_bind
from intermodal.worker.images.trees import remove_tree
from intermodal.worker.images.view import View
from intermodal.worker.images.workshop import TOOLS, Workshop

OPTIONS: dict[str, type] = {
    "find_links": str,
    "index_url": str,
    "extra_index_url": str,
    "pre": bool,
    "extra_options": str,
}
_TOKENS = {"github.com": "GITHUB_TOKEN", "gitlab.com": "GITLAB_TOKEN"}
_REPOSITORY = re.compile(r"(github\.com|gitlab\.com)/[\w.~+/-]+(@[\w./+-]+)?(#[\w=&./+-]+)?\Z")


class PipInstall(Kind):
    name = "pip_install"
    required = {"packages": list}
    optional = OPTIONS

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return super().lines(step) if step["packages"] else []

    def title(self, fields: Fields) -> str:
        words = [shlex.quote(package) for package in fields["packages"]]
        return " ".join(["RUN python -m pip install", *words, *option_words(fields)])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        await install(workshop, making, making.fields)
        return None


class PipRequirements(PipInstall):
    name = "pip_requirements"
    required = {"requirements": str}
    optional = {**OPTIONS, "constraints": str}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return Kind.lines(self, step)

    def title(self, fields: Fields) -> str:
        return " ".join(["RUN python -m pip install -r requirements.txt", *option_words(fields)])


class UvPipInstall(Kind):
    """uv under its own name: what it cannot do is an error."""

    name = "uv_pip_install"
    required = {"packages": list}
    optional = {**OPTIONS, "requirements": list, "constraints": str, "uv_version": str}

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return super().lines(step) if step["packages"] or step.get("requirements") else []

    def title(self, fields: Fields) -> str:
        words = ["-r requirements.txt" for _text in fields.get("requirements") or []]
        words += [shlex.quote(package) for package in fields["packages"]]
        return " ".join(["RUN uv pip install --compile-bytecode", *words, *option_words(fields)])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        uv, binds = await install_uv(workshop, making, making.fields.get("uv_version") or "")
        paths = []
        for number, text in enumerate(making.fields.get("requirements") or []):
            bind = await asyncio.to_thread(_text_file, making.stage, str(text), f"requirements-{number}")
            binds.append(bind)
            paths.append(bind.target)
        constraints = await _constraints_bind(making, making.fields, binds)
        tools = packages.Installer(making.config.python or "python", uv)
        command = packages.uv_command(making.fields, tools, workshop.host(), paths, constraints)
        await workshop.run(making, command, [*workshop.caches(), *binds], plain_indexes(workshop))
        return None


class PipPrivateRepos(PipInstall):
    """Packages from private repositories. The token is in the environment of this one command alone."""

    name = "pip_private_repos"
    required = {"repositories": list, "git_user": str}

    def check(self, step: Fields) -> None:
        Kind.check(self, step)
        for repository in step["repositories"]:
            if not _REPOSITORY.match(repository):
                raise _bad_repository(repository)

    def lines(self, step: Fields) -> list[tuple[Fields, str]]:
        return Kind.lines(self, step) if step["repositories"] else []

    def title(self, fields: Fields) -> str:
        words = [f"git+https://{repository}" for repository in fields["repositories"]]
        return " ".join(["RUN python -m pip install", *words, *option_words(fields)])

    def parts(self, instruction: Instruction) -> list[Instruction]:
        return [instruction.instead("apt_install", {"packages": ["git"]}), instruction]

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        fields = dict(making.fields)
        repositories = fields.pop("repositories")
        fields["packages"] = [f"git+https://{repository}" for repository in repositories]
        hosts = {repository.partition("/")[0] for repository in repositories}
        env = _credentials(hosts, fields.pop("git_user"), making.secrets)
        # Outside of the shared cache: another build must not find what its own token would not open.
        await install(workshop, making, fields, {**env, "UV_NO_CACHE": "1", "PIP_NO_CACHE_DIR": "1"})
        return None


def _bad_repository(repository: str) -> Exception:
    from modal._protocol.errors import Code, Fault

    return Fault(
        Code.INVALID,
        f"{repository!r} is no repository: write github.com/OWNER/NAME or gitlab.com/OWNER/NAME, then @REF and "
        "#subdirectory=PATH where they are needed",
    )


def _credentials(hosts: set[str], user: str, secrets: dict[str, str]) -> dict[str, str]:
    """git's configuration, as variables: addresses in logs and in what is installed stay without the token."""
    env = {"GIT_TERMINAL_PROMPT": "0"}
    for host in sorted(hosts):
        token = secrets.get(_TOKENS[host])
        if not token:
            raise StepError(f"no secret of this step has {_TOKENS[host]}, which {host} asks for")
        number = int(env.get("GIT_CONFIG_COUNT", "0"))
        env[f"GIT_CONFIG_KEY_{number}"] = f"url.https://{user}:{token}@{host}/.insteadOf"
        env[f"GIT_CONFIG_VALUE_{number}"] = f"https://{host}/"
        env["GIT_CONFIG_COUNT"] = str(number + 1)
    return env


async def install(workshop: Workshop, making: Making, fields: Fields, env: dict[str, str] | None = None) -> None:
    """Install what `fields` say, as pip would. Raises StepError with the installer's own words."""
    binds = workshop.caches()
    uv = uv_bind()
    requirements = ""
    if "requirements" in fields:
        bind = await asyncio.to_thread(_text_file, making.stage, str(fields["requirements"]), "requirements-0")
        binds.append(bind)
        requirements = bind.target
    constraints = await _constraints_bind(making, fields, binds)
    given = {**making.config.env, **making.secrets}
    configured = await asyncio.to_thread(packages.pip_is_configured, given, View(making.layers))
    python = making.config.python or "python"
    settings = {**plain_indexes(workshop), **(env or {})}
    files = (requirements, constraints)
    by_pip = packages.install_command(fields, packages.Installer(python, ""), workshop.host(), *files)
    if uv is not None and not configured:
        tools = packages.Installer(python, UV)
        command = packages.install_command(fields, tools, workshop.host(), *files)
        if command[0] == UV:
            try:
                await workshop.run(making, command, [*binds, uv], settings)
                return
            except StepError as error:
                making.log("output", f"uv could not do it ({error.reason}): pip tries\n")
                await asyncio.to_thread(_empty, making.upper)
    await workshop.run(making, by_pip, binds, settings)


def plain_indexes(workshop: Workshop) -> dict[str, str]:
    """Indexes are options of the command: as variables too, uv would ask each twice."""
    doubled = {name: "" for name in workshop.host().environment() if name.startswith("UV_") and "INDEX" in name}
    return {**doubled, "UV_FIND_LINKS": ""}


def _empty(upper: Path) -> None:
    mode = upper.stat().st_mode
    remove_tree(upper)
    upper.mkdir()
    upper.chmod(mode & 0o7777)


async def _constraints_bind(making: Making, fields: Fields, binds: list[Bind]) -> str:
    """Where the container sees the step's constraints, "" where it has none; adds to `binds`."""
    text = str(fields.get("constraints") or "")
    if not text:
        return ""
    binds.append(await asyncio.to_thread(_text_file, making.stage, text, "constraints"))
    return binds[-1].target


def _text_file(stage: Path, text: str, name: str) -> Bind:
    path = stage / f"{name}.txt"
    path.write_text(text)
    return Bind(path, f"{TOOLS}/{path.name}")


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
        words.append(hide_password(str(fields["extra_options"])))
    return words


def hide_password(url: str) -> str:
    """A URL as logs may show it."""
    return re.sub(r"(?<=://)([^/@\s]*)@", "***@", url)


KINDS = [PipInstall(), PipRequirements(), UvPipInstall(), PipPrivateRepos()]
