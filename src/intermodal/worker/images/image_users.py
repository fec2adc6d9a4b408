"""Users and groups by the names that an image gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from intermodal.worker.containers.launch import User
from intermodal.worker.images.failures import StepError
from intermodal.worker.images.view import View


@dataclass(frozen=True)
class Account:
    """A user of an image."""

    user: User
    home: str = "/root"


ROOT = Account(User())


def account(text: str, layers: list[Path]) -> Account:
    """The account that `USER` or `--chown` names: `name`, `7`, `name:group`, `7:8`. Raises StepError."""
    if text in ("", "root", "0", "root:root", "0:0"):
        return ROOT
    name, _, group = text.partition(":")
    view = View(layers)
    users, groups = _lines(view, "etc/passwd"), _lines(view, "etc/group")
    known = next((line for line in users if name in (line[0], line[2])), None) if name else None
    if known is not None:
        uid, gid, home, login = int(known[2]), int(known[3]), known[5] or "/", known[0]
    elif name.isdigit():
        uid, gid, home, login = int(name), 0, "/", ""
    else:
        raise StepError(f"the image has no user {name!r} (in /etc/passwd): make it first, for instance with useradd")
    if group:
        gid = _group(group, groups)
        return Account(User(uid, gid), home)
    others = (int(line[2]) for line in groups if login and login in line[3].split(","))
    return Account(User(uid, gid, tuple(one for one in others if one != gid)), home)


def _group(text: str, groups: list[list[str]]) -> int:
    for line in groups:
        if text in (line[0], line[2]):
            return int(line[2])
    if text.isdigit():
        return int(text)
    raise StepError(f"the image has no group {text!r} (in /etc/group): make it first, for instance with groupadd")


def _lines(view: View, path: str) -> list[list[str]]:
    """The entries of a file of accounts, those that make sense."""
    node = view.lookup(view.resolve(path))
    if node is None or node.is_directory:
        return []
    entries = [line.split(":") for line in node.places[0].read_text(errors="replace").splitlines()]
    least = 6 if path.endswith("passwd") else 4
    return [one for one in entries if len(one) >= least and one[2].isdigit() and (least == 4 or one[3].isdigit())]
