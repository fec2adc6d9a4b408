"""`builder_packages`: the Python packages that bases of a builder version carry, as a layer of their own."""

from __future__ import annotations

from intermodal.image_builder import VERSIONS
from intermodal.worker.images import packages
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Instruction, Kind, Made, Making
from intermodal.worker.images.kinds.pip import plain_indexes
from intermodal.worker.images.kinds.uv import UV, uv_bind
from intermodal.worker.images.workshop import Workshop


def parts_for(instruction: Instruction) -> list[Instruction]:
    """What follows a base with Python, by the `builder_version` in its fields ("" = nothing). Raises StepError."""
    name = str(instruction.fields.get("builder_version") or "")
    if not name:
        return []
    version = VERSIONS.get(name)
    if version is None:
        raise StepError(f"this worker knows no image builder version {name!r}: it may be older than the server")
    if not version.packages:
        return []
    return [instruction.instead("builder_packages", {"packages": list(version.packages), "version": name})]


class BuilderPackages(Kind):
    name = "builder_packages"
    pinned = True
    internal = True
    settings_matter = False
    required = {"packages": list, "version": str}

    def title(self, fields: Fields) -> str:
        return f"FROM base {fields['version']}"

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        bind, python = uv_bind(), making.config.python or "python"
        fields = {"packages": making.fields["packages"], "extra_options": "--no-deps -q"}
        tools = packages.Installer(python, UV if bind is not None else "")
        binds = workshop.caches() + ([bind] if bind is not None else [])
        # The version pins them: constraints of this machine are for what programs ask for.
        command = packages.install_command(fields, tools, workshop.host().without_constraints())
        try:
            await workshop.run(making, command, binds, {**plain_indexes(workshop), "PIP_CONSTRAINT": ""})
        except StepError as error:
            version = making.fields["version"]
            raise StepError(
                f"the packages of image builder version {version} could not be installed ({error.reason}). "
                f"`intermodal images builder {version}-bare` does without them",
                error.last_lines,
            ) from error
        return None


KINDS = [BuilderPackages()]
