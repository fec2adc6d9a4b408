"""What a function's definition means to the scheduler."""

from __future__ import annotations

from intermodal.server.scheduler import Request, Rules, gpus
from modal._protocol.messages.function import FunctionSpec


def rules_of(spec: FunctionSpec) -> Rules:
    """The scheduler's view of a function."""
    scaler = spec.autoscaler
    limit = max(1, spec.concurrent_max)
    batch_size, batch_wait_ms = batching_of(spec)
    return Rules(
        scaler.min_containers,
        scaler.max_containers,
        scaler.buffer_containers,
        float(scaler.scaledown_window),
        limit,
        max(1, min(spec.concurrent_target or limit, limit)),
        batch_size,
        batch_wait_ms / 1000,
        spec.max_inputs,
        not spec.is_async and limit == 1 and not batch_size and not serves_web(spec),
        request_of(spec),
    )


def request_of(spec: FunctionSpec) -> Request:
    """What one of its containers reserves. Raises ValueError for a GPU request that is none."""
    wants = spec.resources
    return Request(wants.cpu_request, wants.memory_request, tuple(gpus.parse(text) for text in wants.gpu))


def serves_web(spec: FunctionSpec) -> bool:
    """Whether requests from outside come to its containers."""
    return spec.web is not None or any(method.web is not None for method in spec.methods)


def batching_of(spec: FunctionSpec) -> tuple[int, int]:
    """Inputs in one run, and milliseconds that the first one waits; 0, 0 where it is not batched."""
    if spec.batch_size:
        return spec.batch_size, spec.batch_wait_ms  # of a function, or by `with_batching`
    for method in spec.methods:
        if method.batch_size:
            return method.batch_size, method.batch_wait_ms  # a class with a batched method has no other
    return 0, 0
