"""Class parameters from query strings: each choice of values is a pool of containers of its own."""

from __future__ import annotations

import base64
import io
import pickle
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from intermodal.server.gateway.request import Refusal
from intermodal.server.gateway.routes import Route
from modal._protocol.errors import Fault
from modal._protocol.messages.function import FunctionBind, FunctionHandle

MAX_KNOWN = 10_000
_ALPHABET = str.maketrans("-_", "+/")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class Parameters:
    """`bind` makes the variant of a class."""

    def __init__(self, bind: Callable[[FunctionBind], Awaitable[FunctionHandle]]) -> None:
        self._bind = bind
        self._known: dict[tuple[str, bytes], str] = {}  # class and values -> function id of the variant

    async def choose(self, route: Route, query: bytes) -> Route:
        """The route to the variant that the query asks for. Raises Refusal."""
        if not route.parameters:
            return route
        data = pickled(read_values(route, query))
        function_id = self._known.get((route.function_id, data))
        if function_id is None:
            try:
                handle = await self._bind(FunctionBind(route.function_id, data))
            except Fault as fault:
                raise Refusal(404, f"The app behind this address cannot be used: {fault.text}") from None
            function_id = handle.function_id
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[route.function_id, data] = function_id
        return route._replace(function_id=function_id)


def read_values(route: Route, query: bytes) -> dict[str, Any]:
    """The class's parameters in a query string. Raises Refusal for what is missing or of another type."""
    given = dict(parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True))
    values: dict[str, Any] = {}
    for name, type_name, has_default, default in route.parameters:
        if name not in given:
            if not has_default:
                raise Refusal(400, f"The query parameter {name!r} ({type_name}) is missing.")
            values[name] = base64.b64decode(default) if type_name == "bytes" else default
            continue
        values[name] = _convert(name, type_name, given[name])
    return values


def _convert(name: str, type_name: str, text: str) -> Any:
    if type_name == "int":
        try:
            return int(text)
        except ValueError:
            raise Refusal(400, f"The query parameter {name!r} must be a whole number, not {text[:100]!r}.") from None
    if type_name == "bool":
        if text.lower() in _TRUE or text.lower() in _FALSE:
            return text.lower() in _TRUE
        raise Refusal(400, f"The query parameter {name!r} must be true or false, not {text[:100]!r}.")
    if type_name == "bytes":
        try:  # a plus sign is a space where nobody has quoted it; both alphabets are in use
            return base64.b64decode(text.replace(" ", "+").translate(_ALPHABET) + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            raise Refusal(400, f"The query parameter {name!r} must be bytes in base64, not {text[:100]!r}.") from None
    return text


def pickled(values: dict[str, Any]) -> bytes:
    """As clients pickle parameters, byte for byte: equal values share containers with them."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 4)
    pickler.fast = True
    pickler.dump({name: values[name] for name in sorted(values)})
    return buffer.getvalue()
