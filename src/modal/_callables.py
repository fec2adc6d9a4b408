"""What can be known of a callable without importing `inspect` (which costs a start several milliseconds)."""

from __future__ import annotations

from types import CodeType
from typing import Any, Callable, Optional

_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200  # inspect.CO_*
_VARARGS, _VARKEYWORDS = 0x04, 0x08


def _plain(function: Any) -> Any:
    """The function below `functools.partial` objects, methods and objects with `__call__`."""
    while True:
        if hasattr(function, "__func__"):
            function = function.__func__
        elif hasattr(function, "func") and hasattr(function, "keywords"):
            function = function.func
        elif not hasattr(function, "__code__") and hasattr(type(function), "__call__"):  # noqa: B004 - looked at below
            call = type(function).__call__
            if not hasattr(call, "__code__"):
                return function
            function = call
        else:
            return function


def _flags(function: Any) -> int:
    code: Optional[CodeType] = getattr(_plain(function), "__code__", None)
    return 0 if code is None else code.co_flags


def is_generator(function: Any) -> bool:
    """Whether it is a generator function, plain or async."""
    return bool(_flags(function) & (_GENERATOR | _ASYNC_GENERATOR))


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine or an async generator."""
    return bool(_flags(function) & (_COROUTINE | _ASYNC_GENERATOR))


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """All parameters with their stars, looking through decorators that use `functools.wraps`."""
    seen = 0
    while hasattr(function, "__wrapped__") and seen < 100:
        function = function.__wrapped__
        seen += 1
    code: Optional[CodeType] = getattr(_plain(function), "__code__", None)
    if code is None:
        return []
    plain = code.co_argcount + code.co_kwonlyargcount
    names = list(code.co_varnames[:plain])
    if code.co_flags & _VARARGS:
        names.append(f"*{code.co_varnames[plain]}")
        plain += 1
    if code.co_flags & _VARKEYWORDS:
        names.append(f"**{code.co_varnames[plain]}")
    return names


def required_parameters(function: Callable[..., Any]) -> list[str]:
    """The parameters that a call must give."""
    seen = 0
    while hasattr(function, "__wrapped__") and seen < 100:
        function = function.__wrapped__
        seen += 1
    plain = _plain(function)
    code: Optional[CodeType] = getattr(plain, "__code__", None)
    if code is None:
        return []
    positional = code.co_varnames[: code.co_argcount]
    defaults = len(getattr(plain, "__defaults__", None) or ())
    keyword_defaults = getattr(plain, "__kwdefaults__", None) or {}
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [*positional[: len(positional) - defaults], *(name for name in keywords if name not in keyword_defaults)]
