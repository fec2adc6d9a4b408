"""What the scheduler asks others to do."""

from __future__ import annotations

from typing import Any, NamedTuple, Union


class Start(NamedTuple):
    """Start this container (the id is new) of this function on this worker, with these of its GPUs."""

    container_id: str
    function_id: str
    worker_id: str
    devices: tuple[str, ...] = ()


class Assign(NamedTuple):
    """Send these inputs, in this order, to this container. With `batch` they are one run of a batched function."""

    container_id: str
    inputs: list[Any]
    batch: bool = False


class Recall(NamedTuple):
    """Ask the container to give back what it has not started; the answers come as `returned`."""

    container_id: str
    inputs: list[Any]


class Stop(NamedTuple):
    """End this container; it has no inputs. `reason` is for people."""

    container_id: str
    reason: str


class GiveUp(NamedTuple):
    """These inputs will never run. `reason` is for people."""

    function_id: str
    inputs: list[Any]
    reason: str


class Refuse(NamedTuple):
    """These inputs can run nowhere. `reason` has what their function asks for, and what there is."""

    function_id: str
    inputs: list[Any]
    reason: str


Decision = Union[Start, Assign, Recall, Stop, GiveUp, Refuse]
