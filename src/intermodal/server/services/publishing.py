"""Checks what an app wants to publish, and works out what becomes of each of its functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from intermodal.server.ids import new_id
from intermodal.server.scheduler import gpus
from intermodal.server.services.variants import apply
from intermodal.server.store.apps import AppRow
from intermodal.server.store.functions import FunctionRow
from modal._protocol.errors import Code, Fault
from modal._protocol.messages.function import FunctionHandle, FunctionSpec

MIN_TIMEOUT, MAX_TIMEOUT = 1, 24 * 3600  # seconds
MAX_DISK = 3 * 1024 * 1024  # MiB


class Plan(NamedTuple):
    """`rows`: all functions and variants that exist afterwards; `removed`: ids of those that do not."""

    rows: list[FunctionRow]
    removed: list[str]


def plan(app_id: str, version: int, specs: list[FunctionSpec], known: list[FunctionRow]) -> Plan:
    """A function keeps its id as long as its app has one of that name. Fault: invalid."""
    bases = {row.name: row for row in known if not row.base_id}
    rows: list[FunctionRow] = []
    for spec in specs:
        check_spec(spec)
        old = bases.get(spec.name)
        function_id = old.function_id if old is not None else new_id("fu")
        rows.append(FunctionRow(function_id, app_id, spec.name, spec, version, True, "", {}, b""))
    if len({row.name for row in rows}) != len(rows):
        names = [row.name for row in rows]
        twice = next(name for name in names if names.count(name) > 1)
        raise Fault(Code.INVALID, f"the app has two functions named {twice!r}")
    specs_by_id = {row.function_id: row.spec for row in rows}
    rows.extend(
        row._replace(spec=apply(specs_by_id[row.base_id], row.variant), version=version)
        for row in known
        if row.active and row.base_id in specs_by_id
    )
    kept = {row.function_id for row in rows}
    return Plan(rows, [row.function_id for row in known if row.active and row.function_id not in kept])


def check_spec(spec: FunctionSpec) -> None:
    """Fault(invalid) for what no function can be. The SDK has said it before, with the place in the program."""
    if not spec.name:
        raise Fault(Code.INVALID, "a function needs a name")
    scaler = spec.autoscaler
    if min(scaler.min_containers, scaler.max_containers, scaler.buffer_containers, scaler.scaledown_window) < 0:
        raise Fault(Code.INVALID, f"{spec.name}: the autoscaler's settings must not be negative")
    if scaler.max_containers and scaler.max_containers < scaler.min_containers:
        raise Fault(
            Code.INVALID,
            f"{spec.name}: max_containers ({scaler.max_containers}) must not be less than "
            f"min_containers ({scaler.min_containers})",
        )
    if not MIN_TIMEOUT <= spec.timeout <= MAX_TIMEOUT:
        raise Fault(
            Code.INVALID, f"{spec.name}: timeout={spec.timeout} must be between {MIN_TIMEOUT} and {MAX_TIMEOUT} seconds"
        )
    wants = spec.resources
    if wants.cpu_request < 0 or wants.memory_request < 0 or wants.ephemeral_disk < 0:
        raise Fault(Code.INVALID, f"{spec.name}: cpu, memory and ephemeral_disk must not be negative")
    if wants.ephemeral_disk > MAX_DISK:
        raise Fault(
            Code.INVALID, f"{spec.name}: ephemeral_disk={wants.ephemeral_disk} must be at most {MAX_DISK} MiB (3 TiB)"
        )
    for text in wants.gpu:
        try:
            if gpus.parse(text).count < 1:
                raise ValueError(text)
        except ValueError:
            raise Fault(Code.INVALID, f"{spec.name}: {text!r} is no GPU request; write for instance T4:2") from None
    if wants.cpu_limit and wants.cpu_limit < wants.cpu_request:
        raise Fault(Code.INVALID, f"{spec.name}: the CPU limit must not be below the request")
    if wants.memory_limit and wants.memory_limit < wants.memory_request:
        raise Fault(Code.INVALID, f"{spec.name}: the memory limit must not be below the request")


async def check_references(
    specs: list[FunctionSpec],
    known_images: Callable[[set[str]], Awaitable[set[str]]],
    known_mounts: Callable[[set[str]], Awaitable[set[str]]],
    check_secrets: Callable[[set[str]], Awaitable[None]],
) -> None:
    """Fault(not-found) unless every image, mount and secret that the functions name exists."""
    images = {spec.image_id for spec in specs}
    if "" in images:
        name = next(spec.name for spec in specs if not spec.image_id)
        raise Fault(Code.INVALID, f"the function {name} has no image")
    missing = images - await known_images(images)
    if missing:
        raise Fault(Code.NOT_FOUND, f"there is no image {min(missing)}: build it first")
    mounts = {mount_id for spec in specs for mount_id in spec.mount_ids}
    missing = mounts - await known_mounts(mounts) if mounts else set()
    if missing:
        raise Fault(Code.NOT_FOUND, f"there is no mount {min(missing)}: upload it first")
    secrets = {secret_id for spec in specs for secret_id in spec.secret_ids}
    secrets |= {one.object_id for spec in specs for one in spec.volumes if one.kind == "bucket" and one.object_id}
    if secrets:
        await check_secrets(secrets)


def handle_of(row: FunctionRow, app: AppRow) -> FunctionHandle:
    """What a client gets to hold of a function."""
    spec = row.spec
    return FunctionHandle(
        row.function_id,
        row.name,
        row.app_id,
        app.name or app.description,
        spec.is_generator,
        spec.is_async,
        spec.is_class,
        spec.methods,
        spec.class_parameters,
    )
