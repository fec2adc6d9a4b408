"""`Image.run_function`: a Python function as a build step, and what decides whether it must run again.

Documentation: reference/modal.Image, "run_function". Its source, its arguments and the global variables that it
refers to count; other functions and classes that it refers to do not.
"""

from __future__ import annotations

import hashlib
import sys
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional, Sequence

from modal._image_steps import Step
from modal._object import Object
from modal.exception import InvalidError

if TYPE_CHECKING:
    from modal._client import Client
    from modal._mounts import FileSet
    from modal._secret import Secret

MAX_CODE = 500_000  # bytes of a pickled function or its arguments; a whole recipe travels as one message header


class FunctionStep(Step):
    """Runs one function. What it runs with is looked at when the image is built."""

    def __init__(
        self,
        raw: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        *,
        mounts: dict[str, Any],
        settings: dict[str, Any],
        include_source: bool,
        secrets: Sequence[Secret],
        gpus: Sequence[str],
        force: bool,
    ) -> None:
        for what, given, kind in (("args", args, (list, tuple)), ("kwargs", kwargs, (dict,))):
            if not isinstance(given, kind):
                raise InvalidError(f"Image.run_function: {what} must be a {kind[0].__name__}, not {given!r}.")
        super().__init__("run_function", {}, secrets=secrets, gpus=gpus, force=force)
        self._raw = raw
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        self._mounts = mounts
        self._settings = settings  # cpu, memory, timeout: they change how it runs, not what comes of it
        self._include_source = include_source
        self._volumes: list[Any] = []

    @property
    def _serialized(self) -> bool:
        from modal._source import is_interactive_module

        name = getattr(self._raw, "__qualname__", "<locals>")
        return "<locals>" in name or "<lambda>" in name or is_interactive_module(self._raw.__module__)

    def _source(self) -> Any:
        from modal._source import Source, source_of

        if not self._serialized:
            return source_of(self._raw.__module__)
        module = sys.modules.get(self._raw.__module__)
        files = None
        if module is not None and getattr(module, "__file__", None):
            files = source_of(self._raw.__module__).files
        return Source("serialized", "", files)

    @property
    def file_sets(self) -> list[FileSet]:
        files = self._source().files if self._include_source else None
        return [] if files is None else [files]

    async def prepare(self, client: Client) -> None:
        from modal._options import volume_mounts
        from modal._protocol.message import to_json

        self._volumes = [to_json(mount) for mount in await volume_mounts(client, self._mounts)]

    def _own(self, mount_ids: dict[Any, list[str]]) -> dict[str, Any]:
        source = self._source()
        call = _pickled((self._args, self._kwargs), "the arguments")
        supplies = {
            "source": source.kind,
            "module": source.module,
            "qualname": self._raw.__qualname__,
            "function": _pickled(self._raw, "the function") if source.kind == "serialized" else "",
            "call": call,
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "mount_ids": [one for files in self.file_sets for one in mount_ids[files.key]],
            "volumes": self._volumes,
            **self._settings,
        }
        name = self._raw.__qualname__
        return {"name": name, "identity": identity(self._raw, self._args, self._kwargs), "supplies": supplies}


def _pickled(value: Any, what: str) -> str:
    from base64 import b64encode

    import cloudpickle

    module = None
    if isinstance(value, FunctionType) and value.__module__ != "__main__":
        module = sys.modules.get(value.__module__)
    if module is not None:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = cloudpickle.dumps(value)
    except Exception as error:
        raise InvalidError(
            f"Image.run_function: {what} cannot be sent: {error}. Use values that can be pickled, or a function at the "
            "top level of its module."
        ) from error
    finally:
        if module is not None:
            cloudpickle.unregister_pickle_by_value(module)
    if len(data) > MAX_CODE:
        raise InvalidError(
            f"Image.run_function: {what} take {len(data):,} bytes, more than {MAX_CODE:,}. "
            "Give large data as a file: add_local_file(..., copy=True)."
        )
    return b64encode(data).decode()


def check_function(raw: Any) -> None:
    """Raises InvalidError where `raw` is nothing that a build step could run."""
    from modal._callables import is_generator
    from modal._partial import PartialFunction

    if isinstance(raw, (Object, PartialFunction)):
        raise InvalidError("Image.run_function: give the plain function, without a decorator of Modal's.")
    if isinstance(raw, MethodType) or not isinstance(raw, FunctionType):
        what = "a method" if isinstance(raw, MethodType) else repr(raw)
        raise InvalidError(f"Image.run_function: a plain function is needed, not {what}.")
    if is_generator(raw):
        raise InvalidError(f"Image.run_function: {raw.__qualname__} is a generator; a build step must return.")


# -- what decides whether it must run again --------------------------------------------------------


def identity(raw: Callable[..., Any], args: Sequence[Any] = (), kwargs: Optional[dict[str, Any]] = None) -> str:
    """A hash that changes when the function's source, its arguments or its global variables do."""
    import inspect

    inner = inspect.unwrap(raw)
    digest = hashlib.sha256()
    try:
        text: Any = inspect.getsource(inner)
    except (OSError, TypeError):
        text = _code_of(inner.__code__)  # no file: what it was compiled to
    for part in ("source", text, "args", list(args), "kwargs", kwargs or {}, "globals", variables_of(inner)):
        _feed(digest, part)
    return digest.hexdigest()


def variables_of(function: Any) -> dict[str, Any]:
    """The global and enclosing variables that a function refers to, by name: data alone, no code."""
    code: CodeType = function.__code__
    found = {}
    for name in sorted(set(_global_names(code))):
        if name in function.__globals__:
            found[name] = function.__globals__[name]
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    return {name: value for name, value in found.items() if not _is_code(value)}


def _is_code(value: Any) -> bool:
    return isinstance(value, (ModuleType, type, Object)) or callable(value)


def _global_names(code: CodeType) -> Iterator[str]:
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _code_of(code: CodeType) -> list[Any]:
    inner = [_code_of(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    return [code.co_code, list(code.co_names), inner]


def _feed(digest: Any, value: Any) -> None:
    """Add a value so that equal ones add the same in every process."""
    if isinstance(value, dict):
        digest.update(b"{%d" % len(value))
        for key, item in value.items():
            _feed(digest, key)
            _feed(digest, item)
    elif isinstance(value, (list, tuple)):
        digest.update(b"[%d" % len(value))
        for item in value:
            _feed(digest, item)
    elif isinstance(value, (set, frozenset)):
        parts = []
        for item in value:
            part = hashlib.sha256()
            _feed(part, item)
            parts.append(part.digest())
        digest.update(b"<%d" % len(parts) + b"".join(sorted(parts)))
    elif _is_code(value):
        digest.update(b"code:" + getattr(value, "__qualname__", type(value).__qualname__).encode())
    else:
        _feed_bytes(digest, type(value).__qualname__.encode())
        _feed_bytes(digest, _bytes_of(value))


def _feed_bytes(digest: Any, data: bytes) -> None:
    digest.update(b"%d:" % len(data))
    digest.update(data)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, (str, int, float, complex, bool, type(None))):
        return repr(value).encode("utf-8", "backslashreplace")
    if isinstance(value, bytes):
        return value
    import cloudpickle

    try:
        data: bytes = cloudpickle.dumps(value)
    except Exception:
        return b""  # a lock, a connection: its kind is all that can be told
    return data
