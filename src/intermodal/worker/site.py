"""What the operator adds to every container and build of this machine: variables and host names.

A site without the Internet has mirrors under other names (`HF_ENDPOINT`, `PLAYWRIGHT_DOWNLOAD_HOST`,
`AWS_ENDPOINT_URL`, …), and programs that must not be changed for it.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

ENV_SETTING = "INTERMODAL_CONTAINER_ENV"  # a file of NAME=value lines
HOSTS_SETTING = "INTERMODAL_CONTAINER_HOSTS"  # name=address, separated by commas or spaces
GATEWAY = "host-gateway"  # as an address: this machine, as containers reach it
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\Z")


class SiteError(Exception):
    """A setting of the operator cannot be used; the text says which and why."""


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The lines of the file that INTERMODAL_CONTAINER_ENV names; values may stand in quotes. Raises SiteError."""
    where = environ.get(ENV_SETTING, "")
    if not where:
        return {}
    try:
        lines = Path(where).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SiteError(f"{ENV_SETTING}: {where} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        if not equals or not _NAME.match(name.strip()):
            raise SiteError(f"{ENV_SETTING}: line {number} of {where} is not NAME=value")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def hosts(environ: Mapping[str, str]) -> dict[str, str]:
    """Names and their addresses (or `host-gateway`) from INTERMODAL_CONTAINER_HOSTS. Raises SiteError."""
    found = {}
    for word in environ.get(HOSTS_SETTING, "").replace(",", " ").split():
        name, _, address = word.partition("=")
        if not _HOST.match(name) or not (address == GATEWAY or _is_address(address)):
            raise SiteError(
                f"{HOSTS_SETTING}: {word!r} is not NAME=ADDRESS, such as mirror.example=10.0.0.5 "
                f"or mirror.example={GATEWAY} for this machine"
            )
        found[name] = address
    return found


def hosts_lines(names: Mapping[str, str], gateway: str) -> str:
    """As lines of /etc/hosts; a name for this machine only where containers reach it (`gateway`)."""
    resolved = {name: gateway if address == GATEWAY else address for name, address in names.items()}
    return "".join(f"{address}\t{name}\n" for name, address in resolved.items() if address)


@functools.cache
def own_hosts() -> dict[str, str]:
    """This machine's setting as it was when this process first asked."""
    return hosts(os.environ)


def check() -> None:
    """Say at the start what would go wrong later. Raises SiteError."""
    variables(os.environ)
    own_hosts()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
