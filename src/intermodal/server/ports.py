"""What the services need of the invocation path and of the workers: implemented in `calls` and `workers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from intermodal.server.store.apps import AppRow
from intermodal.server.store.functions import FunctionRow
from modal._protocol.messages.container import ContainerInfo
from modal._protocol.messages.function import Autoscaler, FunctionHandle, FunctionSpec
from modal._protocol.messages.image import BuildLog
from modal._protocol.messages.worker import WorkerImageBuilt


class CallsPort(Protocol):
    """The invocation path, as apps and functions see it."""

    def functions_changed(self, app_id: str, functions: list[tuple[str, FunctionSpec]], removed: list[str]) -> None:
        """These functions of the app exist from now on in this form; those in `removed` take no new inputs."""

    async def check_room(self, specs: list[FunctionSpec]) -> None:
        """Fault(invalid) where one asks for what no machine can hold, with what was asked for and what there is."""

    async def stop_app(self, app_id: str, force: bool = False) -> None:
        """Return when nothing of the app runs any more. Unfinished inputs fail."""

    def stats(self, app_id: str) -> dict[str, list[int]]:
        """Function name -> [pending, running, finished, containers]."""

    def notices(self, app_id: str) -> list[str]:
        """What people should know of the app's functions: which wait for room, and which are crash-looping."""

    def app_idle(self, app_id: str) -> bool:
        """No input of the app waits or runs, spawned ones included."""

    def function_stats(self, function_id: str) -> tuple[int, int]:
        """Backlog, containers."""

    def update_autoscaler(self, function_id: str, autoscaler: Autoscaler) -> None:
        """Until the next publication."""


class WebPort(Protocol):
    """The addresses of web functions, as apps and functions see them."""

    def check(self, app: AppRow, specs: Iterable[FunctionSpec]) -> None:
        """Fault(conflict) where an address is wanted twice."""

    def publish(self, app: AppRow, rows: Iterable[FunctionRow]) -> None:
        """These are the app's functions from now on."""

    def forget(self, app_id: str) -> None:
        """The app is served no longer."""

    def address(self, handle: FunctionHandle, row: FunctionRow, app: AppRow) -> FunctionHandle:
        """The handle, with the addresses at which the function is served."""


class WorkersPort(Protocol):
    """The workers and their containers, as images, containers and the status see them."""

    async def build_image(
        self,
        image_id: str,
        recipe: list[dict[str, Any]],
        secrets: dict[str, dict[str, str]],
        ignore_cache: bool,
        on_log: Callable[[BuildLog], None],
        environment: str,
    ) -> WorkerImageBuilt:
        """Have one worker build it. Raises Fault. Cancelling the task ends the build.

        Names in functions that run in the build resolve in `environment`.
        """

    def containers(self, app_id: str = "") -> list[ContainerInfo]:
        """Those that start, run or stop now (of one app, or all); `app_name` may be left empty."""

    def container(self, container_id: str) -> tuple[str, str] | None:
        """App id and function id of a container that runs now: what its own connection may do follows from it."""

    async def stop_container(self, container_id: str) -> None:
        """SIGINT, exit handlers, end; its inputs go elsewhere. Fault: not-found."""

    async def sync_volume(self, container_id: str, volume_id: str, action: str, worker_id: str = "") -> None:
        """Commit or reload a volume in a container; in one of a build, where its worker is given.

        Faults: execution (busy, not mounted), not-found, exhausted.
        """

    def volume_changed(self, volume_id: str) -> None:
        """It has a new version: workers that have mounted it before may prepare it."""

    def timings(self, container_id: str) -> dict[str, float] | None:
        """Marks of a start, None where the container is not known."""

    def describe(self) -> list[dict[str, Any]]:
        """One JSON object for each connected worker: worker_id, hostname, pid, runtimes, cpus, memory, …"""

    async def stop(self, keep_containers: bool) -> None:
        """End the workers: their containers too, unless these are to be kept."""
