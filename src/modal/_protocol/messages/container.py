"""Containers as users see them."""

from __future__ import annotations

from typing import Dict, List

from modal._protocol.message import Message, Record


class ContainerList(Message, type=101):
    environment: str = ""
    app_id: str = ""


class ContainerInfo(Record):
    container_id: str
    app_id: str
    app_name: str
    function_name: str
    state: str  # "starting", "running", "stopping"
    started_at: float
    worker_id: str = ""


class Containers(Message, type=102):
    containers: List[ContainerInfo]


class ContainerStop(Message, type=103):
    """SIGINT, exit handlers, end; its inputs go elsewhere. Answered with Done. Fault: not-found."""

    container_id: str


class ContainerLocate(Message, type=104):
    """Which app a container, running or ended, belongs to (for its logs): AppInfo. Fault: not-found."""

    container_id: str


class ContainerTimingsGet(Message, type=105):
    container_id: str


class ContainerTimings(Message, type=106):
    """Where the milliseconds of a start went: name of the step -> milliseconds since the request."""

    marks: Dict[str, float]
