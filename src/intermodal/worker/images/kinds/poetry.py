"""`poetry`: the dependencies of a Poetry project, into the image's own Python.

Poetry, in an environment of its own outside of layers, says what the lock file means; the packages are
then installed like any others.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from intermodal.worker.containers.launch import Bind
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.kinds.pip import install, plain_indexes
from intermodal.worker.images.kinds.uv import UV, uv_bind
from intermodal.worker.images.workshop import TOOLS, Workshop

PROJECT = f"{TOOLS}/project"
_PREPARE = """set -e
if [ ! -e "$1/ready" ]; then
  rm -rf "$1/venv"
  "$2" venv -q --python "$3" "$1/venv"
  "$2" pip install -q --python "$1/venv/bin/python" poetry poetry-plugin-export
  touch "$1/ready"
fi
"""


_WITHOUT_LOCK = """import sys
from pathlib import Path
from poetry.core.factory import Factory

project, chosen = Path(sys.argv[1]), {"with": [], "without": [], "only": []}
for option, group in zip(sys.argv[2::2], sys.argv[3::2]):
    chosen[option[2:]].append(group)
package = Factory().create_poetry(project).package
known = package.dependency_group_names(include_optional=True) | {"main"}
for group in [one for names in chosen.values() for one in names]:
    if group not in known:
        sys.exit(f"Group not found: {group}. There are: {', '.join(sorted(known))}")
groups = set(chosen["only"]) or (package.dependency_group_names() | {"main"} | set(chosen["with"]))
with open(project / "requirements.txt", "w") as file:
    for group in sorted(groups - set(chosen["without"])):
        if package.has_dependency_group(group):
            for dependency in package.dependency_group(group).dependencies:
                if not dependency.is_optional():
                    print(dependency.to_pep_508(), file=file)
"""


class Poetry(Kind):
    name = "poetry"
    required = {"pyproject": str}
    optional = {"lock": str, "with": list, "without": list, "only": list, "old_installer": bool}

    def title(self, fields: Fields) -> str:
        return " ".join(["RUN poetry install --no-root", *_groups(fields)])

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        uv = uv_bind()
        if uv is None:
            raise StepError("uv, which sets Poetry up, is not part of this worker's installation")
        fields = making.fields
        if fields.get("old_installer"):
            making.log("output", "old_installer: today's Poetry has no other installer than its own; ignored\n")
        project = making.stage / "project"
        await asyncio.to_thread(_write, project, fields)
        tool = workshop.cache(f"poetry-{making.config.layers[0][:20]}", "poetry")
        binds = [*workshop.caches(), uv, tool, Bind(project, PROJECT, read_only=False)]
        scratch = making.stage / "poetry-upper"  # what Poetry writes beside is no part of the image
        env = {
            **plain_indexes(workshop),
            "POETRY_CACHE_DIR": f"{tool.target}/cache",
            "POETRY_CONFIG_DIR": f"{tool.target}/config",
            "POETRY_DATA_DIR": f"{tool.target}/data",
            "POETRY_VIRTUALENVS_CREATE": "false",
            "PYTHONPATH": "",
        }
        python = making.config.python or "python"
        async with workshop.alone(tool.source.name):
            command = ["/bin/sh", "-c", _PREPARE, "poetry", tool.target, UV, python]
            uv_env = {name: value for name, value in env.items() if not name.startswith("UV_")}
            await workshop.run(making, command, binds, uv_env, upper=scratch)
        programs = f"{tool.target}/venv/bin"
        if fields.get("lock"):
            export = [f"{programs}/poetry", "export", "-C", PROJECT, "-f", "requirements.txt"]
            export += ["-o", f"{PROJECT}/requirements.txt"]
        else:
            # What the project asks for, to be resolved with the indexes of every other step.
            export = [f"{programs}/python", "-c", _WITHOUT_LOCK, PROJECT]
        await workshop.run(making, [*export, *_groups(fields)], binds, env, upper=scratch)
        text = await asyncio.to_thread((project / "requirements.txt").read_text)
        if text.strip():
            options = {"extra_options": "--no-deps"} if fields.get("lock") else {}
            await install(workshop, making, {"requirements": text, **options})
        return None


def _groups(fields: Fields) -> list[str]:
    chosen = [(name, group) for name in ("with", "without", "only") for group in fields.get(name) or []]
    return [word for name, group in chosen for word in (f"--{name}", group)]


def _write(project: Path, fields: Fields) -> None:
    project.mkdir()
    (project / "pyproject.toml").write_text(fields["pyproject"])
    if fields.get("lock"):
        (project / "poetry.lock").write_text(fields["lock"])


KINDS = [Poetry()]
