"""The rules for names, and the environment that a name belongs to."""

from __future__ import annotations

import re

from intermodal.server.ids import looks_like
from modal._protocol.errors import Code, Fault

MAX_NAME = 64  # characters; a name must be shorter
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_SUFFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def check_name(kind: str, name: str) -> str:
    """The name itself. Raises Fault(invalid) with the rule that it breaks; `kind` is for people ("Secret")."""
    if not name:
        raise Fault(Code.INVALID, f"{kind} needs a name")
    if not is_name(name):
        raise Fault(
            Code.INVALID,
            f"Invalid {kind} name: {name[:80]!r}. Names may contain only alphanumeric characters, dashes, periods, "
            f"and underscores, and must be shorter than {MAX_NAME} characters.",
        )
    return name


def is_name(name: str) -> bool:
    """Whether `check_name` would take it."""
    return len(name) < MAX_NAME and _NAME.fullmatch(name) is not None


def check_app_name(name: str) -> str:
    """As `check_name`; a name that could be taken for an app's id is refused too."""
    check_name("App", name)
    if looks_like("ap", name):
        raise Fault(Code.INVALID, f"Invalid App name: {name!r}. It must not look like an App ID.")
    return name


def check_web_suffix(suffix: str) -> str:
    """The part of URLs that stands for an environment: "" or lower-case letters, digits and dashes."""
    if suffix and (len(suffix) >= MAX_NAME or not _SUFFIX.fullmatch(suffix)):
        raise Fault(
            Code.INVALID,
            f"{suffix!r} cannot be a web suffix: use lower-case letters, digits and dashes, "
            f"fewer than {MAX_NAME}, or the empty string for none",
        )
    return suffix
