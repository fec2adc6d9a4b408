"""Arguments in and results out, inline or through the container's values directory."""

from __future__ import annotations

import os
from typing import Any

from modal import _serialization


class Values:
    """The values directory is shared with the worker, which links files between it and the value store."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def read(self, inline: bytes, blob: str) -> Any:
        """An input's `(args, kwargs)`. Raises DeserializationError."""
        value = _serialization.load_value(inline, blob, self._directory, "the arguments")
        if blob:
            os.unlink(_serialization.value_path(self._directory, blob))
        return value

    def write(self, value: Any) -> tuple[bytes, str]:
        """A result as `(inline bytes, blob id)`. Raises SerializationError."""
        small = _serialization.dumps_small(value)
        if small is not None and len(small) <= _serialization.INLINE_LIMIT:  # integers may be large
            return small, ""
        dumped = _serialization.dump(value, self._directory, "the result", audience="callers")
        return dumped.inline, dumped.blob
