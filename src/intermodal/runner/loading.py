"""From a function's spec to the Python callables that inputs are given to."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any, Callable, Optional

from modal._protocol.messages.function import FunctionSpec
from modal._protocol.messages.worker import RunnerSpec

_MISSING = object()


def load_error(text: str) -> Exception:
    """An ExecutionError: the user's code does not hold what its spec says."""
    from modal.exception import ExecutionError

    return ExecutionError(text)


class Service:
    """What a container offers: one function, or the methods of one object, and the hooks around them."""

    def __init__(self, spec: FunctionSpec) -> None:
        self.spec = spec
        self._callables: dict[str, Callable[..., Any]] = {}
        self.enter_hooks: list[Callable[[], Any]] = []
        self.exit_hooks: list[Callable[[], Any]] = []

    def offer(self, name: str, function: Callable[..., Any]) -> None:
        self._callables[name] = function

    def find(self, method: str) -> Callable[..., Any]:
        """The callable for an input. Raises ExecutionError."""
        found = self._callables.get(method)
        if found is None:
            known = ", ".join(sorted(name for name in self._callables if name)) or "none"
            raise load_error(f"{self.spec.name} has no method {method!r}; it has: {known}")
        return found

    def is_generator(self, method: str) -> bool:
        for known in self.spec.methods:
            if known.name == method:
                return known.is_generator
        return self.spec.is_generator

    def is_batched(self, method: str) -> bool:
        """Whether its arguments come as lists, one element for each of several inputs."""
        for known in self.spec.methods:
            if known.name == method and known.batch_size:
                return True
        return self.spec.batch_size > 0

    def is_async(self) -> bool:
        """Whether inputs need an event loop."""
        return self.spec.is_async or any(method.is_async for method in self.spec.methods) or self.serves_web()

    def serves_web(self) -> bool:
        """Whether requests from outside come to this container."""
        return self.spec.web is not None or any(method.web is not None for method in self.spec.methods)


def load(spec: RunnerSpec) -> Service:
    """Import or unpickle what the spec names. Whatever the user's code raises comes out as it is."""
    function = spec.function
    service = Service(function)
    target = _of_app(spec.app_name, function, _target(function))
    if target is _MISSING:
        raise _not_there(function)
    if function.is_class:
        _load_class(service, target, spec.parameters)
    else:
        service.offer("", _raw(target))
    return service


def _of_app(app_name: str, function: FunctionSpec, target: Any) -> Any:
    """What the app knows by the function's name, where the variable of that name in the module is something else.

    Several apps of a module may have a function of one name, and a later statement may have given the name to another
    object, or deleted it.
    """
    definition = getattr(target, "_definition", None)
    apps = sys.modules.get("modal._app")
    if apps is None or (definition is not None and definition.app.name == app_name):
        return target
    for value in list(vars(sys.modules[function.module]).values() if function.module in sys.modules else ()):
        if isinstance(value, apps.App) and value.name == app_name:
            known = value.registered_classes if function.is_class else value.registered_functions
            return known.get(function.name, target)
    return target


def load_function(function: FunctionSpec) -> Callable[..., Any]:
    """The user's callable. Raises ExecutionError, and whatever importing it raises."""
    target = _target(function)
    if target is _MISSING:
        raise _not_there(function)
    return _raw(target)


def _target(function: FunctionSpec) -> Any:
    """What its module calls so, `_MISSING` where it calls nothing so."""
    return _unpickle(function) if function.source == "serialized" else _resolve(function)


def _unpickle(function: FunctionSpec) -> Any:
    import pickle

    return pickle.loads(function.serialized)


def _resolve(function: FunctionSpec) -> Any:
    module = _import(function)
    target: Any = module
    for part in function.qualname.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            return _MISSING
    return target


def _not_there(function: FunctionSpec) -> Exception:
    return load_error(
        f"{function.module}.{function.qualname} does not exist in the container: functions must be defined at the top "
        "level of their module, under the same conditions locally and in the container (or use serialized=True)"
    )


def _import(function: FunctionSpec) -> ModuleType:
    if function.source == "file":
        source_dir = os.environ.get("INTERMODAL_SOURCE_DIR", "/root")
        path = os.path.join(source_dir, f"{function.module}.py")
        if function.module not in sys.modules and os.path.exists(path):
            return _import_file(function.module, path)
    return importlib.import_module(function.module)


def _import_file(name: str, path: str) -> ModuleType:
    """A script under its own name, also where an installed package has that name too."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise load_error(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _raw(target: Any) -> Callable[..., Any]:
    """The user's callable behind a decorated one."""
    unwrap: Optional[Callable[[], Any]] = getattr(target, "get_raw_f", None)
    function = unwrap() if unwrap is not None else target
    if not callable(function):
        raise load_error(f"{target!r} is not a function")
    return function  # type: ignore[no-any-return]


def _load_class(service: Service, target: Any, parameters: bytes) -> None:
    """Make the one object of this container; its hooks run later, in the right thread or loop."""
    from modal._lifecycle import construct  # the SDK owns what decorators mean

    instance = construct(target, parameters)
    for method in service.spec.methods:
        service.offer(method.name, instance.callable(method.name))
    service.enter_hooks = instance.enter_hooks
    service.exit_hooks = instance.exit_hooks
