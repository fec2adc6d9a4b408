"""`run_function`: a Python function of the user's runs in the image, and what it changes becomes a layer.

It sees what a function's container sees: the user's source below /root, `modal`, volumes. None of that
is in the layer.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from intermodal.worker.containers.launch import Bind, Limits
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.kinds.kind import Fields, Kind, Made, Making
from intermodal.worker.images.platform import LIB
from intermodal.worker.images.workshop import TOOLS, Workshop, new_container_id
from modal._protocol.errors import Code, Fault, ProtocolError
from modal._protocol.message import from_json
from modal._protocol.messages.function import VolumeMount

PROGRAM = f"{LIB}/intermodal/runner/build_step.py"
PLACE = f"{TOOLS}/function"
CONTAINER_API = "unix:/.intermodal/run/api.sock"
SOURCES = ("file", "package", "serialized")


class RunFunction(Kind):
    name = "run_function"
    required = {"name": str, "identity": str}

    def check(self, step: Fields) -> None:
        super().check(step)
        supplies = step.get("supplies")
        if not isinstance(supplies, dict) or supplies.get("source") not in SOURCES:
            raise Fault(Code.INVALID, f"image step {self.name!r}: it does not say which function to run")

    def title(self, fields: Fields) -> str:
        return f"RUN python -c 'run_function({fields['name']})'"

    async def make(self, workshop: Workshop, making: Making) -> Made | None:
        supplies = making.instruction.supplies
        config = making.config
        _check_python(config.python_version, supplies)
        place = making.stage / "function"
        await asyncio.to_thread(_write, place, making.fields["name"], supplies)
        sources = [workshop.mounts.path(str(one)) for one in supplies.get("mount_ids") or []]
        missing = [path.name for path in sources if not path.is_dir()]
        if missing:
            raise StepError(f"the files {missing[0]} are not on this worker: run the program again to upload them")
        container_id = new_container_id()
        env = {"MODAL_IS_REMOTE": "1", "MODAL_TASK_ID": container_id, "PYTHONUNBUFFERED": "1"}
        if making.context.environment:
            env["MODAL_ENVIRONMENT"] = making.context.environment
        cpu, memory = float(supplies.get("cpu") or 0.0), int(supplies.get("memory") or 0)
        async with AsyncExitStack() as stack:
            binds = [*workshop.platform(), *workshop.caches(), Bind(place, PLACE)]
            binds += await _volumes(workshop, making, container_id, stack)
            if workshop.lends is not None:
                env["MODAL_SERVER_URL"] = CONTAINER_API
                binds.append(
                    await stack.enter_async_context(workshop.lends.api(container_id, making.context.environment))
                )
            await workshop.run(
                making,
                [config.python or "python3", PROGRAM, PLACE],
                binds,
                env,
                layers=sources,
                cwd=config.workdir or "/root",
                limits=Limits(cpu_shares=cpu or Limits.cpu_shares, pids=0) if cpu or memory else None,
                timeout=float(supplies.get("timeout") or 0.0),
                container_id=container_id,
            )
        return None


def _check_python(version: str, supplies: Fields) -> None:
    local, remote = str(supplies.get("python") or ""), ".".join(version.split(".")[:2])
    if supplies["source"] == "serialized" and version and local != remote:
        raise StepError(
            f"the function is defined where no file has it, so it travels as bytecode of Python {local}, but the image "
            f"has Python {remote}: define it at the top level of a module, or use an image with Python {local}"
        )


def _write(place: Path, name: str, supplies: Fields) -> None:
    place.mkdir()
    spec: dict[str, Any] = {key: str(supplies.get(key) or "") for key in ("source", "module", "qualname")}
    (place / "spec.json").write_text(json.dumps({**spec, "name": name}))
    try:
        (place / "call").write_bytes(b64decode(str(supplies.get("call") or ""), validate=True))
        (place / "code").write_bytes(b64decode(str(supplies.get("function") or ""), validate=True))
    except ValueError as error:
        raise StepError(f"the function {name} did not arrive whole: {error}") from None


async def _volumes(workshop: Workshop, making: Making, container_id: str, stack: AsyncExitStack) -> list[Bind]:
    try:
        mounts = [from_json(VolumeMount, one) for one in making.instruction.supplies.get("volumes") or []]
    except ProtocolError as error:
        raise StepError(f"its volumes make no sense: {error}") from None
    if not mounts:
        return []
    if workshop.lends is None:
        raise StepError(
            f"this worker cannot mount anything at {mounts[0].path} while an image is built: leave volumes= out, or "
            "do this work in a function instead"
        )
    secrets = making.context.secrets
    credentials = {one.path: secrets.get(one.object_id, {}) for one in mounts if one.kind == "bucket"}
    return await stack.enter_async_context(workshop.lends.volumes(container_id, mounts, credentials))


KINDS = [RunFunction()]
