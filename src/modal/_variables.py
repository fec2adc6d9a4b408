"""What can be an environment variable of a container."""

from __future__ import annotations

from typing import Any, Mapping

from modal._protocol.messages.secret import MAX_VALUES, MAX_VARIABLE, size_of
from modal.exception import InvalidError, RequestSizeError


def check_variables(values: Mapping[Any, Any], where: str) -> dict[str, str]:
    """Names and values, without those that are None.

    Raises InvalidError, or RequestSizeError where they are too much together; no value is shown.
    """
    for key, value in values.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key or not is_text(key):
            raise InvalidError(f"{where}: {key!a} cannot be the name of an environment variable.")
        if value is None:
            continue
        wrong = _wrong(key, value)
        if wrong:
            raise InvalidError(f"{where}: the value of {key!r} {wrong}.")
    checked = {key: value for key, value in values.items() if value is not None}
    size = size_of(checked)
    if size > MAX_VALUES:
        raise RequestSizeError(
            f"{where}: the variables of one secret have at most {MAX_VALUES >> 10} KiB together, and these have "
            f"{size >> 10}. Keep what is large in a modal.Volume."
        )
    return checked


def _wrong(key: str, value: Any) -> str:
    """What is wrong with a value, "" for nothing."""
    if not isinstance(value, str):
        return f"must be a string or None, not {type(value).__name__}"
    if "\0" in value:
        return "has a NUL character, as no variable can"
    if not is_text(value):
        return "has bytes that are no UTF-8 text. Encode it, say with base64"
    if len(value) * 4 >= MAX_VARIABLE and len(f"{key}={value}".encode()) >= MAX_VARIABLE:
        return f"is larger than the {MAX_VARIABLE >> 10} KiB that Linux lets a variable have. Keep it in a modal.Volume"
    return ""


def is_text(value: str) -> bool:
    """Not what Python makes of bytes that are no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
