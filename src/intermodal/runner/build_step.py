"""Runs one function of the user's while an image is built. Python runs this file by its path, with a directory.

The directory has `spec.json` (which function), `call` (its pickled arguments) and, for a function that no
file has, `code` (its pickle).
"""

import json
import os
import sys
from typing import Any, Callable

SOURCE = "/root"


def main(directory: str) -> int:
    """The exit code: 0, or 1 when the function raised, with its traceback on stderr."""
    lib = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    source = os.environ.get("INTERMODAL_SOURCE_DIR", SOURCE)
    sys.path[0:1] = [source, lib]
    carried = os.path.join(os.path.dirname(lib), "carried")
    if os.path.isdir(carried):
        sys.path.append(carried)
    with open(os.path.join(directory, "spec.json"), encoding="utf-8") as file:
        wanted = json.load(file)
    from modal import _context

    _context.building = True
    try:
        function = _load(wanted, directory)
        with open(os.path.join(directory, "call"), "rb") as call:
            from pickle import load

            args, kwargs = load(call)
        result = function(*args, **kwargs)
        if hasattr(result, "__await__"):
            import asyncio

            asyncio.run(_wait(result))
    except Exception as error:
        _show(error)
        return 1
    return 0


async def _wait(awaitable: Any) -> None:
    await awaitable


def _load(wanted: "dict[str, str]", directory: str) -> "Callable[..., Any]":
    """The function. What importing its module compiles stays out of the image: the source does too."""
    from intermodal.runner.loading import load_function
    from modal._protocol.messages.function import Autoscaler, FunctionSpec, Resources

    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with open(os.path.join(directory, "code"), "rb") as code:
            spec = FunctionSpec(
                name=wanted["name"],
                module=wanted["module"],
                qualname=wanted["qualname"],
                source=wanted["source"],
                serialized=code.read(),
                resources=Resources(),
                autoscaler=Autoscaler(),
            )
        return load_function(spec)
    finally:
        sys.dont_write_bytecode = writes


def _show(error: BaseException) -> None:
    """The traceback, from the user's own code on."""
    import traceback

    own = os.path.dirname(os.path.abspath(__file__))
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.startswith(own):
        at = at.tb_next
    traceback.print_exception(type(error), error, at or error.__traceback__)


if __name__ == "__main__":
    code = main(sys.argv[1])
    from intermodal.runner import ending

    ending.end(code)
