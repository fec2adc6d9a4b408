"""Variants of functions: `with_options`, `with_concurrency`, `with_batching`, class parameters.

A variant is a function of its own, with its own containers. Its id is a hash of what it is a variant
of and what differs, so that every client that asks for the same gets the same. Options:

`min_containers`, `max_containers`, `buffer_containers`, `scaledown_window`, `timeout`, `cpu` and `memory`
(a number, or [request, limit]), `gpu` (text or a list), `ephemeral_disk`, `retries` (null, or an object
with the fields of `function.Retry`), `region` and `cloud`, `concurrent_max`, `concurrent_target`,
`batch_size`, `batch_wait_ms`. `secret_ids` and `volumes` come beside the options; secrets are added
to the function's, volumes replace them path by path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from intermodal.server.ids import canonical, digest_id
from modal._protocol.errors import Code, Fault
from modal._protocol.message import from_json, to_json
from modal._protocol.messages.function import FunctionBind, FunctionSpec, Retry, VolumeMount


def variant_of(message: FunctionBind) -> dict[str, Any]:
    """What differs, as JSON to keep; {} where nothing but parameters does."""
    variant: dict[str, Any] = {}
    if message.options:
        variant["options"] = message.options
    if message.secret_ids:
        variant["secret_ids"] = message.secret_ids
    if message.volumes:
        variant["volumes"] = [to_json(volume) for volume in message.volumes]
    return variant


def variant_id(base_id: str, variant: dict[str, Any], parameters: bytes) -> str:
    """The function id of a variant."""
    digest = hashlib.sha256(canonical([base_id, variant, hashlib.sha256(parameters).hexdigest()])).digest()
    return digest_id("fu", digest)


def apply(spec: FunctionSpec, variant: dict[str, Any]) -> FunctionSpec:
    """A copy of the spec with the differences. Fault: invalid."""
    made: FunctionSpec = from_json(FunctionSpec, _without_code(spec))
    made.serialized = spec.serialized
    for name, value in variant.get("options", {}).items():
        change = _CHANGES.get(name)
        if change is None:
            raise Fault(Code.INVALID, f"there is no option {name!r}: use one of {', '.join(sorted(_CHANGES))}")
        try:
            change(made, value)
        except (TypeError, ValueError, IndexError):
            raise Fault(Code.INVALID, f"{value!r} is no value for the option {name!r}") from None
    if made.batch_size and len(made.methods) > 1:
        names = ", ".join(method.name for method in made.methods)
        raise Fault(Code.INVALID, f"a class with several methods ({names}) cannot be batched: they share containers")
    if made.batch_size and made.concurrent_max > 1:
        raise Fault(Code.INVALID, "batching and input concurrency cannot be combined")
    added = [secret_id for secret_id in variant.get("secret_ids", ()) if secret_id not in made.secret_ids]
    made.secret_ids = [*made.secret_ids, *added]
    volumes = {volume.path: volume for volume in made.volumes}
    for values in variant.get("volumes", ()):
        volume: VolumeMount = from_json(VolumeMount, values)
        volumes[volume.path] = volume
    made.volumes = list(volumes.values())
    return made


def _without_code(spec: FunctionSpec) -> Any:
    code, spec.serialized = spec.serialized, b""
    try:
        return to_json(spec)
    finally:
        spec.serialized = code


def _autoscaler(field: str) -> Callable[[FunctionSpec, Any], None]:
    return lambda spec, value: setattr(spec.autoscaler, field, int(value))


def _field(name: str, kind: Callable[[Any], Any]) -> Callable[[FunctionSpec, Any], None]:
    return lambda spec, value: setattr(spec, name, kind(value))


def _pair(request: str, limit: str, kind: Callable[[Any], Any]) -> Callable[[FunctionSpec, Any], None]:
    def change(spec: FunctionSpec, value: Any) -> None:
        both = value if isinstance(value, list) else [value, 0]
        setattr(spec.resources, request, kind(both[0]))
        setattr(spec.resources, limit, kind(both[1]))

    return change


def _gpu(spec: FunctionSpec, value: Any) -> None:
    spec.resources.gpu = [str(one) for one in (value if isinstance(value, list) else [value])] if value else []


def _retries(spec: FunctionSpec, value: Any) -> None:
    spec.retry = None if value is None else Retry(**value)


def _region(spec: FunctionSpec, value: Any) -> None:
    spec.regions = [str(one) for one in (value if isinstance(value, list) else [value])] if value else []


_CHANGES: dict[str, Callable[[FunctionSpec, Any], None]] = {
    "min_containers": _autoscaler("min_containers"),
    "max_containers": _autoscaler("max_containers"),
    "buffer_containers": _autoscaler("buffer_containers"),
    "scaledown_window": _autoscaler("scaledown_window"),
    "timeout": _field("timeout", int),
    "cpu": _pair("cpu_request", "cpu_limit", float),
    "memory": _pair("memory_request", "memory_limit", int),
    "gpu": _gpu,
    "ephemeral_disk": lambda spec, value: setattr(spec.resources, "ephemeral_disk", int(value)),
    "retries": _retries,
    "region": _region,
    "cloud": _field("cloud", str),
    "concurrent_max": _field("concurrent_max", int),
    "concurrent_target": _field("concurrent_target", int),
    "batch_size": _field("batch_size", int),
    "batch_wait_ms": _field("batch_wait_ms", int),
}
