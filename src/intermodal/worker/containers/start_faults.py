"""What crun and runc say when a container does not start, in words for who owns it: paths of the container, and why."""

from __future__ import annotations

import re

_PROGRAM = re.compile(
    r"executable file [`'\"]?(?P<path>[^`'\"]+)[`'\"]? not found|exec: \"(?P<other>[^\"]+)\".*not found"
)
_FORBIDDEN = re.compile(r"open executable: Permission denied|exec: \"(?P<other>[^\"]+)\": permission denied", re.I)
_ON_FILE = re.compile(r"mount `[^`]*` to `/?(?P<path>[^`]+)`: Not a directory")
_WORKDIR = re.compile(r"chdir(?: to cwd)? [`\(]?\"?(?P<path>/[^`\"\)]*)[`\"\)]*.*?: (?P<why>[\w ]+)\Z", re.I)
_OTHER_HALF = re.compile(r"sync socket.*: (Connection reset by peer|Broken pipe)|(read|write) (from|to) sync socket\Z")
_IN_ROOT = re.compile(r"`[^`]*/containers/ta-\w+/root(?P<path>/[^`]*)`")


def explain(detail: str) -> str:
    """A runtime's words, with what they mean where that is known."""
    if found := _PROGRAM.search(detail):
        path = found["path"] or found["other"]
        return f"{path} is not in the image, or something that is mounted or added to it hides it"
    if _FORBIDDEN.search(detail):
        return "its program may not be executed: a file was put in its place, or lacks the permission"
    if found := _ON_FILE.search(detail):
        return f"nothing can be mounted at /{found['path']}: there is a file in the image"
    if found := _WORKDIR.search(detail):
        return f"the working directory {found['path']}: {found['why'].lower()} in the image"
    if found := _IN_ROOT.search(detail):
        return _IN_ROOT.sub(lambda one: f"{one['path']} of the image", detail)
    return detail


def other_half_ended(detail: str) -> bool:
    """Whether a runtime says no more than that the process which it made for the container was ended."""
    return bool(_OTHER_HALF.search(detail))
