"""Names of what one state directory owns on its machine: two homes never meet, and a later worker finds its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def token(home: Path) -> str:
    """Eight hexadecimal digits that stand for this state directory."""
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:8]


def cgroup_name(home: Path) -> str:
    """The parent of this home's control groups."""
    return f"intermodal-{token(home)}"


def bridge_name(home: Path) -> str:
    """The bridge (interface names have at most 15 characters)."""
    return f"im{token(home)}"


def veth_name(home: Path, number: int) -> str:
    """The machine's end of the pair of the container with this address number."""
    return f"iv{token(home)[:7]}{number:04x}"


def table_name(home: Path) -> str:
    """The nftables table."""
    return f"intermodal_{token(home)}"
