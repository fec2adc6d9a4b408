"""The state directory, and what both the SDK and the platform must find in it."""

from __future__ import annotations

import os

SPARE_SUFFIX = ".spare"  # ends the second name of a large value's file, beside it; see `modal._spare_files`


def owners_dir(values_dir: str) -> str:
    """Where processes lock files of their own that have written large values; see `modal._value_owner`."""
    return os.path.join(os.path.dirname(values_dir), "value-owners")


def home_dir() -> str:
    """`INTERMODAL_HOME`; else /var/lib/intermodal for root and the XDG state directory for anybody else."""
    chosen = os.environ.get("INTERMODAL_HOME")
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return "/var/lib/intermodal"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "intermodal")


def socket_path(home: str) -> str:
    """The embedded server's socket. A unix socket's path may have 107 bytes, so long homes use /tmp by hash."""
    path = os.path.join(home, "server.sock")
    if len(os.fsencode(path)) <= 100:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return f"/tmp/intermodal-{os.getuid()}-{digest}/server.sock"  # noqa: S108 - made with mode 0700 by the server


def server_address(home: str) -> str:
    """Where clients of the embedded server connect."""
    return f"unix:{socket_path(home)}"
