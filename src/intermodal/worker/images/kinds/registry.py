"""`registry`: an image of a registry, with a Python of its own or one that is put in."""

from __future__ import annotations

from intermodal.worker.images.composing import Composing, become
from intermodal.worker.images.image_python import find_python
from intermodal.worker.images.kinds.kind import Fields, Kind
from intermodal.worker.images.registry_access import ACCESS, login_for
from intermodal.worker.images.registry_reference import parse_reference
from modal._protocol.errors import Code, Fault


class RegistryImage(Kind):
    name = "registry"
    base = True
    composite = True
    settings_matter = False
    required = {"tag": str}
    optional = {"access": str, "setup": list, "add_python": str}

    def check(self, step: Fields) -> None:
        super().check(step)
        if step.get("access", "") not in ACCESS:
            raise Fault(Code.INVALID, f"this worker knows no access to registries by {step.get('access')!r}")

    def title(self, fields: Fields) -> str:
        return f"FROM {fields['tag']}"

    async def compose(self, composing: Composing) -> None:
        tag = composing.fields["tag"]
        reference = parse_reference(tag)
        login = await login_for(composing.fields.get("access", ""), reference, composing.secrets)
        scope = ",".join(sorted(composing.instruction.secret_ids))
        base = await composing.builder.registry.pull(reference, login, scope, composing.emit, composing.rebuild)
        become(composing.config, base.config)
        setup = [*base.onbuild, *(composing.fields.get("setup") or [])]
        if setup:
            from intermodal.worker.images.dockerfile import carry_out

            await carry_out(composing, "\n".join(setup) + "\n", "setup_dockerfile_commands")
        if composing.fields.get("add_python"):
            await composing.put("add_python", {"version": composing.fields["add_python"]})
        else:
            await find_python(composing, tag)


KINDS = [RegistryImage()]
