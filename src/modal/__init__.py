"""Run Python functions in containers: locally, on a server of your own, or on a cluster.

Importing this costs next to nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers know it; importing it from typing would cost more than all the rest

__version__ = "0.1.0"

_HOME = {
    "App": "_app",
    "Client": "_client",
    "CloudBucketMount": "_bucket",
    "Cls": "_cls",
    "Cron": "schedule",
    "Dict": "_dict",
    "Error": "exception",
    "FilePatternMatcher": "file_pattern_matcher",
    "Function": "_function",
    "FunctionCall": "_call",
    "Image": "_image",
    "NetworkFileSystem": "_network_file_system",
    "Period": "schedule",
    "Proxy": "_proxy",
    "Queue": "_queue",
    "Retries": "_retries",
    "Sandbox": "_sandbox",
    "SandboxSnapshot": "_sandbox",
    "SchedulerPlacement": "_scheduler_placement",
    "Secret": "_secret",
    "Tunnel": "_tunnel",
    "Volume": "_volume",
    "asgi_app": "_web",
    "batched": "_partial",
    "build": "_partial",
    "concurrent": "_partial",
    "current_function_call_id": "_context",
    "current_input_id": "_context",
    "enable_output": "_output",
    "enter": "_partial",
    "exit": "_partial",
    "fastapi_endpoint": "_web",
    "forward": "_tunnel",
    "interact": "_interactive",
    "is_local": "_context",
    "method": "_partial",
    "parameter": "_parameter",
    "web_endpoint": "_web",
    "web_server": "_web",
    "wsgi_app": "_web",
}
_MODULES = frozenset(
    (
        "call_graph",
        "config",
        "container_process",
        "exception",
        "experimental",
        "file_io",
        "file_pattern_matcher",
        "functions",
        "gpu",
        "io_streams",
        "object",
        "runner",
        "schedule",
        "stream_type",
        "volume",
    )
)

__all__ = [
    "App",
    "Client",
    "CloudBucketMount",
    "Cls",
    "Cron",
    "Dict",
    "Error",
    "FilePatternMatcher",
    "Function",
    "FunctionCall",
    "Image",
    "NetworkFileSystem",
    "Period",
    "Proxy",
    "Queue",
    "Retries",
    "Sandbox",
    "SandboxSnapshot",
    "Secret",
    "Tunnel",
    "Volume",
    "asgi_app",
    "batched",
    "concurrent",
    "current_function_call_id",
    "current_input_id",
    "enable_output",
    "enter",
    "exit",
    "fastapi_endpoint",
    "forward",
    "interact",
    "is_local",
    "method",
    "parameter",
    "web_endpoint",
    "web_server",
    "wsgi_app",
]

_GONE = {
    "Stub": "modal.Stub is now modal.App.",
    "Mount": "modal.Mount is gone: add files to the image with Image.add_local_file, add_local_dir or "
    "add_local_python_source.",
}

if TYPE_CHECKING:
    from modal._app import App
    from modal._bucket import CloudBucketMount
    from modal._call import FunctionCall
    from modal._client import Client
    from modal._cls import Cls
    from modal._context import current_function_call_id, current_input_id, is_local
    from modal._dict import Dict
    from modal._function import Function
    from modal._image import Image
    from modal._interactive import interact
    from modal._network_file_system import NetworkFileSystem
    from modal._output import enable_output
    from modal._parameter import parameter
    from modal._partial import batched, concurrent, enter, exit, method
    from modal._proxy import Proxy
    from modal._queue import Queue
    from modal._retries import Retries
    from modal._sandbox import Sandbox, SandboxSnapshot
    from modal._secret import Secret
    from modal._tunnel import Tunnel, forward
    from modal._volume import Volume
    from modal._web import asgi_app, fastapi_endpoint, web_endpoint, web_server, wsgi_app
    from modal.exception import Error
    from modal.file_pattern_matcher import FilePatternMatcher
    from modal.schedule import Cron, Period


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is not None or name in _MODULES:
        module_name = f"{__name__}.{home or name}"
        __import__(module_name)
        module = sys.modules[module_name]
        value = module if home is None else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(_GONE.get(name, f"module {__name__!r} has no attribute {name!r}"))


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
