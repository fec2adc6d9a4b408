"""The host names of web functions: `<source>--<label>[-dev].<domain>` (guide page "Web endpoint URLs")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from modal._protocol.messages.function import FunctionSpec, WebSpec

MAX_LABEL = 63  # characters between two dots of a host name
KEPT = 56  # characters of a longer one, before a dash and six of its hash
_OTHER = re.compile(r"[^a-z0-9]+")


def slug(name: str) -> str:
    """Lower-case letters, digits and dashes."""
    return _OTHER.sub("-", name.lower()).strip("-")


def source(workspace: str, web_suffix: str) -> str:
    """The part of a host name that stands for workspace and environment."""
    name = slug(workspace) or "workspace"
    return f"{name}-{web_suffix}" if web_suffix else name


def label(app: str, function: str, web: WebSpec) -> str:
    """What stands for a function: its own label, else that of app and function (`Class.method` for methods)."""
    return web.label or "-".join(part for part in (slug(app), slug(function)) if part)


def subdomain(source: str, label: str, ephemeral: bool) -> str:
    """The whole part below the domain; one that DNS cannot hold is cut and made unique by its hash."""
    name = f"{source}--{label}{'-dev' if ephemeral else ''}"
    if len(name) <= MAX_LABEL:
        return name
    return f"{name[:KEPT]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def web_functions(spec: FunctionSpec) -> Iterator[tuple[str, str, WebSpec]]:
    """Method name ("" for the function itself), name for people, and what it is, of each web function in a spec."""
    if spec.web is not None and not spec.is_class:
        yield "", spec.name, spec.web
    for method in spec.methods:
        if method.web is not None:
            yield method.name, f"{spec.name}.{method.name}", method.web
