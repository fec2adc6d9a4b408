"""Which fields a request of HTTP/2 may have (RFC 9113, 8.2 and 8.3; RFC 8441)."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_BAD_VALUE = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_CONNECTION = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


class Malformed(Exception):
    """What is wrong with a head."""


def check_request(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    hosts: list[bytes] = []
    lengths = 0
    regular = False
    for name, value in fields:
        if _BAD_VALUE.search(value):
            raise Malformed(f"a field's value holds what none may: {name[:40]!r}")
        if name[:1] == b":":
            if regular or name not in _PSEUDO or name in pseudo:
                raise Malformed(f"the field {name[:40]!r} is unknown, comes twice or too late")
            pseudo[name] = value
            continue
        regular = True
        _check_name(name, value)
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit():
                raise Malformed("the Content-Length is none")
    if lengths > 1:
        raise Malformed("a request has one Content-Length")
    _check_pseudo(pseudo)
    authority = pseudo.get(b":authority")
    if authority is None and not hosts:
        raise Malformed("a request has an authority, or a host")
    if len(hosts) > 1 or (authority is not None and hosts and hosts[0] != authority):
        raise Malformed("a request has one host, which is its authority")


def check_trailers(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises Malformed."""
    for name, value in fields:
        if name[:1] == b":" or _BAD_VALUE.search(value):
            raise Malformed(f"a trailer may not be {name[:40]!r}")
        _check_name(name, value)


def _check_name(name: bytes, value: bytes) -> None:
    if not _NAME.match(name):
        raise Malformed(f"{name[:40]!r} is no name of a field")
    if name in _CONNECTION or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed(f"the field {name!r} is none of HTTP/2")


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    if b":method" not in pseudo:
        raise Malformed("a request has a method")
    connects = pseudo[b":method"] == b"CONNECT"
    if b":protocol" in pseudo and not connects:
        raise Malformed("a protocol is asked for by CONNECT")
    if connects and b":protocol" not in pseudo:
        if b":scheme" in pseudo or b":path" in pseudo:
            raise Malformed("CONNECT has neither scheme nor path")
    elif b":scheme" not in pseudo or not pseudo.get(b":path"):
        raise Malformed("a request has a scheme and a path")
