"""What a function's definition says about its containers."""

from __future__ import annotations

from dataclasses import dataclass, field

from intermodal.server.scheduler.capacity import Request


@dataclass(frozen=True)
class Rules:
    """Times in seconds, memory in MiB. Zero limits mean "none"."""

    min_containers: int = 0
    max_containers: int = 0
    buffer_containers: int = 0
    scaledown_window: float = 60.0
    limit: int = 1  # inputs a container runs at once
    target: int = 1  # inputs a container that the autoscaler aims at
    batch_size: int = 0  # inputs that one run takes together; 0: not batched
    batch_wait: float = 0.0
    max_inputs: int = 0  # inputs a container serves in its life
    prefetch: bool = True  # whether short inputs may wait inside a container for their turn
    request: Request = field(default_factory=lambda: Request(0.125, 128))
