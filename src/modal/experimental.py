"""Features that may change or go away."""

from __future__ import annotations

from typing import Any, Callable

from modal._planned import not_yet


def stop_fetching_inputs() -> None:
    """Don't fetch any more inputs from the server, after the current one. The container will exit gracefully."""
    from modal import _context
    from modal.exception import InvalidError

    if _context.stop_fetching is None:
        raise InvalidError("modal.experimental.stop_fetching_inputs can be called by a function in its container only.")
    _context.stop_fetching()


def clustered(size: int, broadcast: bool = True) -> Callable[[Any], Any]:
    """Provision clusters of colocated and networked containers for the Function."""
    raise not_yet("modal.experimental.clustered")


def get_local_input_concurrency() -> int:
    """The number of inputs that this container runs at once."""
    raise not_yet("modal.experimental.get_local_input_concurrency")


def set_local_input_concurrency(concurrency: int) -> None:
    """Set the number of inputs that this container runs at once."""
    raise not_yet("modal.experimental.set_local_input_concurrency")


__all__: list[str] = [
    "clustered",
    "get_local_input_concurrency",
    "set_local_input_concurrency",
    "stop_fetching_inputs",
]
