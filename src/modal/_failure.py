"""Exceptions on their way: `failure_of` in the container, `exception_of` at the caller.

An exception travels with its type, arguments and attributes, with what caused it, and with the frames of
each. Every part that cannot travel is left out; type name, text and traceback always arrive.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from modal import _serialization, _traceback

if TYPE_CHECKING:
    from modal._protocol.messages.call import CallFailure

MAX_TEXT = 64 * 1024  # characters of a message or a traceback
MAX_PICKLED = 1 << 20  # bytes; a larger exception arrives as text
MAX_PART = MAX_PICKLED // 4  # bytes of an argument or attribute; in a larger exception, longer ones are cut or left out
MAX_CHAIN = 16  # exceptions that led to one
MAX_WORDS = 1000  # characters that stand for an argument of which the caller lacks the type
_ORDINARY = BaseException.__reduce__
_SIMPLE = frozenset((str, int, float, bool, bytes, type(None)))  # every caller can read these


# -- in the container -----------------------------------------------------------------------------


def failure_of(error: BaseException) -> CallFailure:
    """What the caller hears of an exception of the user's. Never raises."""
    from modal._protocol.messages.call import CallFailure

    try:
        return CallFailure(
            "user",
            type_name=_type_name(error),
            text=_text(error),
            traceback=_clip(_traceback.text_of(error)),
            frames=_traceback.frames_of(error),
            pickled=_pickled(error),
        )
    except Exception as defect:  # an exception of the user's that resists even being looked at
        return CallFailure(
            "user", type_name=_type_name(error), text=_text(error), hint=f"(details lost: {defect!r:.200})"
        )


def _type_name(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return _clip(str(error))
    except Exception as failed:
        return f"<its __str__ raised {type(failed).__name__}>"


def _clip(text: str) -> str:
    # What stands alone as half a surrogate pair cannot be written as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT // 2]}\n…\n{text[-MAX_TEXT // 2 :]}"


def _pickled(error: BaseException) -> bytes:
    """All exceptions of the chain, each pickled by itself, and how they hang together."""
    errors: List[BaseException] = [error]
    links = [  # `errors` grows while it is walked
        (_place(one.__cause__, errors), _place(one.__context__, errors), one.__suppress_context__) for one in errors
    ]
    parts = [
        (_encode(one), _type_name(one), _text(one), [] if one is error else _traceback.frames_of(one)) for one in errors
    ]
    data = pickle.dumps((parts, links), _serialization.PROTOCOL)
    if len(data) > MAX_PICKLED:
        data = pickle.dumps(([(parts[0][0], *parts[0][1:])], [(-1, -1, True)]), _serialization.PROTOCOL)
    return data if len(data) <= MAX_PICKLED else b""


def _place(error: Optional[BaseException], errors: List[BaseException]) -> int:
    """The number of an exception of the chain, which gets one if it is new; -1 for none."""
    if error is None:
        return -1
    for number, known in enumerate(errors):
        if known is error:
            return number
    if len(errors) >= MAX_CHAIN:
        return -1
    errors.append(error)
    return len(errors) - 1


def _encode(error: BaseException) -> bytes:
    """What `_rebuild` takes, pickled; b"" where even the type cannot travel."""
    cls = type(error)
    try:
        if isinstance(getattr(error, "exceptions", None), tuple):
            return _encode_group(error)
        if cls.__reduce__ is not _ORDINARY or cls.__reduce_ex__ is not object.__reduce_ex__:
            data = _piece(("whole", error), MAX_PICKLED)
            if data:
                return data
        state = dict(error.__dict__)
        if all(type(value) in _SIMPLE for value in (*error.args, *state.values())):
            data = _serialization.dumps(("parts", cls, error.args, state))
            if len(data) <= MAX_PICKLED:
                return data
        # Each part by itself: what cannot travel, is too large, or cannot be read there leaves the others alone.
        for limit in (MAX_PICKLED, MAX_PART):
            args = [_argument(value, limit) for value in error.args]
            pieces = {name: _piece(value, limit) for name, value in state.items()}
            data = _serialization.dumps(("pieces", cls, args, pieces))
            if len(data) <= MAX_PICKLED:
                break
        return data
    except Exception:
        return b""


def _encode_group(error: Any) -> bytes:
    """An ExceptionGroup: each of its exceptions as those of a chain are, with its own frames."""
    inner = [(_encode(one), _type_name(one), _text(one), _traceback.frames_of(one)) for one in error.exceptions]
    state = {name: data for name, value in error.__dict__.items() if (data := _piece(value, MAX_PART))}
    data = _serialization.dumps(("group", type(error), error.message, inner, state))
    if len(data) <= MAX_PICKLED:
        return data
    told: List[Any] = [(b"", name, text[:MAX_WORDS], []) for _data, name, text, _frames in inner]
    return _serialization.dumps(("group", type(error), error.message, told, {}))


def _argument(value: Any, limit: int) -> Tuple[bytes, str]:
    """An argument, pickled if it can be, and in words."""
    data = _piece(value, limit)
    words = _in_words(value)
    return data, words[:MAX_WORDS] if data else words


def _piece(value: Any, limit: int) -> bytes:
    try:
        data = _serialization.dumps(value)
    except Exception:
        return b""
    return data if len(data) <= limit else b""


def _in_words(value: Any) -> str:
    try:
        return _clip(value if isinstance(value, str) else repr(value))
    except Exception:
        return f"<{type(value).__qualname__}>"


# -- at the caller --------------------------------------------------------------------------------


def exception_of(failure: CallFailure, *, timed_out: bool = False) -> Exception:
    """The exception to raise for a failed input, with the traceback that it had in the container."""
    if failure.code != "user":
        return _of_platform(failure, timed_out)
    error, reason = _original(failure)
    if error is None:
        from modal.exception import ExecutionError

        text = f"{failure.type_name}: {failure.text}" if failure.text else failure.type_name
        error = ExecutionError(f"{text}{reason}")
    _traceback.attach(error, failure.frames)
    hint = failure.hint or _missing_here_only(error)
    if hint:
        _add_note(error, hint)
    return error


def _of_platform(failure: CallFailure, timed_out: bool) -> Exception:
    from modal._endpoint import error_of
    from modal.exception import FunctionTimeoutError

    text = (
        ". ".join(part.rstrip(".") for part in (failure.text, failure.hint) if part)
        or failure.type_name
        or "The input failed."
    )
    error = FunctionTimeoutError(text) if timed_out or failure.code == "timeout" else error_of(failure.code, text)
    if failure.frames:
        _traceback.attach(error, failure.frames)
    return error


def _original(failure: CallFailure) -> Tuple[Optional[Exception], str]:
    """The user's own exception with its chain; or None, and why it could not be made again here."""
    if not failure.pickled:
        return None, ""
    try:
        parts, links = pickle.loads(failure.pickled)
        made = [_decode(*part) for part in parts]
    except Exception as error:
        return None, f" (the exception could not be read: {error})"
    errors = [error for error, _reason in made]
    for one, (cause, context, suppress) in zip(errors, links):
        one.__cause__ = errors[cause] if cause >= 0 else None
        one.__context__ = errors[context] if context >= 0 else None
        one.__suppress_context__ = suppress
    first, reason = made[0]
    if reason:
        return None, reason
    if not isinstance(first, Exception) or isinstance(first, (StopIteration, StopAsyncIteration)):
        return None, ""  # raised here, it would end the caller's program or loop instead of telling of an error
    return first, ""


def _decode(data: bytes, type_name: str, text: str, frames: List[Any]) -> Tuple[BaseException, str]:
    """One exception of a chain, and why it is only a stand-in ("" where it is not)."""
    error: Optional[BaseException] = None
    reason = ""
    try:
        error = _rebuild(*pickle.loads(data)) if data else None
    except Exception as failed:
        reason = f" (this type cannot be made again here: {failed})"
    if error is None:
        from modal.exception import ExecutionError

        error = ExecutionError(f"{type_name}: {text}{reason}")
        reason = reason or " (this exception could not be pickled in the container)"
    if frames:
        _traceback.attach(error, frames)
    return error, reason


def _rebuild(kind: str, cls: Any, *parts: Any) -> Optional[BaseException]:
    """What `_encode` has taken apart."""
    if kind == "whole":
        return cls if isinstance(cls, BaseException) else None
    if kind == "group":
        message, inner, pieces = parts
        return _made(cls, (message, [_decode(*one)[0] for one in inner]), _readable(pieces))
    if kind == "pieces":
        return _made(cls, tuple(_read(data, words) for data, words in parts[0]), _readable(parts[1]))
    return _made(cls, *parts)


def _read(data: bytes, otherwise: Any) -> Any:
    try:
        return pickle.loads(data) if data else otherwise
    except Exception:  # of a type that is not here
        return otherwise


def _readable(pieces: Dict[str, bytes]) -> Dict[str, Any]:
    missing = object()
    found = {name: _read(data, missing) for name, data in pieces.items()}
    return {name: value for name, value in found.items() if value is not missing}


def _made(cls: Any, args: Tuple[Any, ...], state: Dict[str, Any]) -> BaseException:
    try:
        error: BaseException = cls(*args)
    except Exception:  # its __init__ wants other arguments than it passed on: leave it out
        error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _missing_here_only(error: Exception) -> str:
    """How a container gets a module that this machine has and its image lacks; "" for any other error."""
    from modal import _context

    if not isinstance(error, ModuleNotFoundError) or not error.name or _context.spec is not None:
        return ""
    name = error.name.partition(".")[0]
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    if not file or name in getattr(sys, "stdlib_module_names", ()):
        return ""
    if "site-packages" in file or "dist-packages" in file:
        return f"{name!r} is installed here, but not in the function's image. Add it there, as with Image.pip_install."
    return (
        f"{name!r} is a module of this machine. Containers have it where the function's image says so: "
        f'image.add_local_python_source("{name}").'
    )


def _add_note(error: Exception, note: str) -> None:
    add = getattr(error, "add_note", None)  # Python 3.11
    if add is not None:
        add(note)
