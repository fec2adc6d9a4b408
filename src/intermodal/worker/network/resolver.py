"""Names inside containers: their resolv.conf, hosts and hostname files."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

HOST_RESOLV_CONF = Path("/etc/resolv.conf")
SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")  # the servers behind systemd-resolved's 127.0.0.53


@dataclass(frozen=True)
class Resolver:
    """Where containers ask for names."""

    servers: tuple[str, ...]
    others: tuple[str, ...]  # search and options lines
    loopback: str = ""  # the machine's own server on loopback, which then is reached by way of the gateway

    def text(self, gateway: str) -> str:
        """A container's /etc/resolv.conf."""
        # Without any server of the machine, questions go where names below localhost are known.
        servers = (gateway,) if self.loopback or not self.servers else self.servers
        return "".join(f"nameserver {server}\n" for server in servers) + "".join(f"{line}\n" for line in self.others)


def read_resolver(path: Path = HOST_RESOLV_CONF, systemd: Path = SYSTEMD_RESOLV_CONF) -> Resolver:
    """What the machine itself uses, as far as a container can reach it."""
    servers, others = _read(path)
    outside = tuple(server for server in servers if not ipaddress.ip_address(server).is_loopback)
    if outside:
        return Resolver(outside, others)
    behind, others_behind = _read(systemd)
    if behind:
        return Resolver(behind, others_behind or others)
    return Resolver((), others, loopback=servers[0] if servers else "")


def _read(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """IPv4 name servers (containers have no IPv6), and the search and options lines."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return (), ()
    servers, others = [], []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                if ipaddress.ip_address(words[1]).version == 4:
                    servers.append(words[1])
            except ValueError:
                continue
        elif words and words[0] in ("search", "options", "domain"):
            others.append(line.strip())
    return tuple(servers), tuple(others)


def hosts_text(hostname: str, address: str, gateway: str) -> str:
    """A container's /etc/hosts."""
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"{address or '127.0.0.1'}\t{hostname}",
    ]
    if gateway:
        lines.append(f"{gateway}\thost.intermodal.internal")
    return "\n".join(lines) + "\n"
