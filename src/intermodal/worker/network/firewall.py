"""One nftables table a home: translation outwards, and what containers may reach.

A container reaches the outside and its name servers. It does not reach other containers, the machine's own services
(but the ports in `INTERMODAL_HOST_PORTS`), or link-local addresses, where clouds hand the machine's credentials out.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from intermodal.worker.network import local_names
from intermodal.worker.network.resolver import Resolver


class FirewallError(Exception):
    """nft refused or is missing; the text says what to do."""


@dataclass(frozen=True)
class Firewall:
    """The table of one bridge."""

    table: str
    bridge: str
    network: IPv4Network
    gateway: IPv4Address
    resolver: Resolver
    host_ports: tuple[int, ...] = ()
    local_names: int = 0  # port where questions for names below localhost are answered; 0: nowhere

    def rules(self) -> str:
        """What `nft -f -` gets: the whole table, replaced at once."""
        own = f'iifname "{self.bridge}"'
        servers = ", ".join(self.resolver.servers)
        names = f"{own} ip daddr {{ {servers} }} meta l4proto {{ tcp, udp }} th dport 53 accept" if servers else ""
        ports = f"{own} tcp dport {{ {', '.join(map(str, self.host_ports))} }} accept" if self.host_ports else ""
        below = answers = redirect = local = ""
        if self.local_names:
            below = local_names.rules(own, f"{self.gateway}:{self.local_names}")
            answers = f"{own} ip daddr {self.gateway} udp dport {self.local_names} accept"
        if self.resolver.loopback:
            target = self.resolver.loopback
            question = f"{own} ip daddr {self.gateway} meta l4proto {{ tcp, udp }} th dport 53"
            redirect = f"{question} dnat ip to {target}"
            local = f"{own} ip daddr {target} meta l4proto {{ tcp, udp }} th dport 53 accept"
        return f"""
table inet {self.table}
delete table inet {self.table}
table inet {self.table} {{
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        {below}
        {redirect}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        {own} ct state established,related accept
        {answers}
        {local}
        {ports}
        {own} ip protocol icmp icmp type echo-request accept
        {own} reject with icmpx admin-prohibited
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        {own} meta nfproto ipv6 drop
        {own} ip saddr != {self.network} drop
        {own} oifname "{self.bridge}" drop
        {names}
        {own} ip daddr 169.254.0.0/16 reject with icmpx admin-prohibited
        {own} accept
        oifname "{self.bridge}" ct state established,related accept
        oifname "{self.bridge}" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {self.network} oifname != "{self.bridge}" masquerade
    }}
}}
"""

    def open(self) -> None:
        """Put the table in place of an earlier one."""
        _nft(self.rules())


def remove_table(table: str) -> None:
    """Remove a home's table, if it is there."""
    if shutil.which("nft"):
        _nft(f"table inet {table}\ndelete table inet {table}\n")


def _nft(script: str) -> None:
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin") or shutil.which("nft")
    if nft is None:
        raise FirewallError("nft is missing; `apt-get install nftables` as root adds it")
    done = subprocess.run([nft, "-f", "-"], input=script.encode(), capture_output=True, check=False)
    if done.returncode != 0:
        raise FirewallError(f"nft refused its rules: {done.stderr.decode(errors='replace').strip()[:400]}")
