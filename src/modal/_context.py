"""Where this process is: on the launching machine, or in a container, and for which input.

The runner fills this in before it imports anything of the user's. It imports next to nothing, so
that it costs a container's start nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

if TYPE_CHECKING:
    from modal._protocol.messages.worker import RunnerSpec

CONTAINER_API = "unix:/.intermodal/run/api.sock"  # where a container's own client connects

APP_VARIABLE = "INTERMODAL_APP_ID"  # set by the runner for processes that user code starts

building = False  # set by the runner: this process runs a function of `Image.run_function`
stop_fetching: Optional[Callable[[], None]] = None  # set by the runner: the container takes no more inputs
spec: Optional[RunnerSpec] = None  # set by the runner: this process is a container's main process

_thread = threading.local()  # .input_id: the input that this thread runs
_task_input: Optional[Callable[[], Optional[str]]] = None  # set by an asyncio runner: the running task's input
_main_input: Optional[str] = None  # the input of a container that runs one at a time


def enter_container(runner_spec: RunnerSpec) -> None:
    """Called once by the runner."""
    global spec
    spec = runner_spec


def set_main_input(input_id: Optional[str]) -> None:
    """The one input that the container runs now (containers without concurrency)."""
    global _main_input
    _main_input = input_id


def set_thread_input(input_id: Optional[str]) -> None:
    """The input that the calling thread runs now (concurrent sync functions)."""
    _thread.input_id = input_id


def set_task_lookup(lookup: Callable[[], Optional[str]]) -> None:
    """How to find the input of the running asyncio task (async functions)."""
    global _task_input
    _task_input = lookup


def current_input_id() -> Optional[str]:
    """`in-<call>-<index>` of the input that runs here, None outside of one."""
    if _task_input is not None:
        found = _task_input()
        if found is not None:
            return found
    found = getattr(_thread, "input_id", None)
    return found if found is not None else _main_input


def current_function_call_id() -> Optional[str]:
    """`fc-<call>` of the input that runs here, None outside of one."""
    input_id = current_input_id()
    if input_id is None:
        return None
    return "fc-" + input_id[len("in-") :].rpartition("-")[0]


def is_local() -> bool:
    """False in a container."""
    import os

    return spec is None and os.environ.get("MODAL_IS_REMOTE") != "1"


def own_app_id() -> str:
    """The app of the container that this process is in (a child of its main process knows it too); "" outside."""
    import os

    if spec is not None:
        return spec.app_id
    return os.environ.get(APP_VARIABLE, "") if not is_local() else ""


def extra(name: str) -> Any:
    """A field of the runner's spec, None on the launching machine."""
    return getattr(spec, name, None)
