"""The home's bridge: a private subnet, and one isolated port for each container."""

from __future__ import annotations

import errno
import os
import struct
import threading
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from intermodal.worker.containers import kernel, names
from intermodal.worker.network.firewall import Firewall, remove_table
from intermodal.worker.network.local_names import LocalNames
from intermodal.worker.network.netlink import IFLA_MASTER, IFLA_MTU, Netlink
from intermodal.worker.network.resolver import Resolver, read_resolver

PREFIX = 20  # 4,093 containers a home
DEFAULT_MTU = 1500


class NetworkError(Exception):
    """The network cannot be prepared; the text says why."""


class Bridge:
    """One bridge with its subnet, addresses and firewall table."""

    def __init__(self, home: Path, host_ports: tuple[int, ...] = ()) -> None:
        self.home = home
        self.name = names.bridge_name(home)
        self.host_ports = host_ports
        self.resolver: Resolver = read_resolver()
        self.local_names: LocalNames | None = None
        self._netlink: Netlink | None = None
        self._host = -1  # this machine's network namespace
        self._index = 0
        self._mtu = DEFAULT_MTU
        self._interface = IPv4Interface("0.0.0.0/32")
        self._used: set[int] = set()
        self._next = 2
        self._lock = threading.Lock()

    @property
    def gateway(self) -> IPv4Address:
        """The machine's address on the bridge."""
        return self._interface.ip

    @property
    def network(self) -> IPv4Network:
        """The subnet of this home's containers."""
        return self._interface.network

    def open(self) -> None:
        """Make the bridge, or take over an earlier worker's, and put the firewall in place."""
        self._netlink = Netlink()
        self._host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        links = self._netlink.links()
        if self.name not in links:
            self._mtu = self._outward_mtu()
            self._netlink.add_bridge(self.name, self._mtu)
            links = self._netlink.links()
        self._index, values = links[self.name]
        self._mtu = struct.unpack("=I", values[IFLA_MTU])[0]
        self._take_address()
        self._set_sysctls()
        self.local_names = LocalNames(self.gateway)
        Firewall(
            names.table_name(self.home),
            self.name,
            self.network,
            self.gateway,
            self.resolver,
            self.host_ports,
            self.local_names.port,
        ).open()

    def _take_address(self) -> None:
        assert self._netlink is not None
        present = self._netlink.addresses(self._index)
        if present:
            self._interface = present[0]
            return
        network = self._free_network()
        self._interface = IPv4Interface((int(network.network_address) + 1, PREFIX))
        self._netlink.add_address(self._index, self._interface)

    def _free_network(self) -> IPv4Network:
        """A subnet of 10.192.0.0/11 that no route and no name server of this machine is in."""
        assert self._netlink is not None
        taken = [network for network, _ in self._netlink.routes() if network.prefixlen > 0]
        taken += [IPv4Network(server) for server in self.resolver.servers]
        choices = list(IPv4Network("10.192.0.0/11").subnets(new_prefix=PREFIX))
        first = int(names.token(self.home), 16) % len(choices)
        for choice in choices[first:] + choices[:first]:
            if not any(choice.overlaps(network) for network in taken):
                return choice
        raise NetworkError("every subnet of 10.192.0.0/11 is in use on this machine; none is left for containers")

    def _outward_mtu(self) -> int:
        """That of the default route's interface: a larger one would lose packets behind tunnels."""
        assert self._netlink is not None
        outward = {index for network, index in self._netlink.routes() if network.prefixlen == 0}
        sizes = [
            struct.unpack("=I", values[IFLA_MTU])[0]
            for index, values in self._netlink.links().values()
            if index in outward and IFLA_MTU in values
        ]
        return min(sizes, default=DEFAULT_MTU)

    def _set_sysctls(self) -> None:
        _set("/proc/sys/net/ipv4/ip_forward", "1")
        _set(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6", "1", missing_ok=True)
        if self.resolver.loopback:
            _set(f"/proc/sys/net/ipv4/conf/{self.name}/route_localnet", "1")

    # Addresses

    def reserve(self, address: str) -> None:
        """An adopted container keeps its address."""
        with self._lock:
            self._used.add(int(IPv4Address(address)) - int(self.network.network_address))

    def _take(self) -> int:
        """The next free address number. Numbers go round, so a name is not used again while the kernel removes it."""
        count = self.network.num_addresses
        with self._lock:
            for _ in range(count):
                number = self._next
                self._next = 2 if self._next >= count - 2 else self._next + 1
                if number not in self._used:
                    self._used.add(number)
                    return number
        raise NetworkError(f"all {count - 3} addresses of {self.network} are in use")

    def release(self, address: str) -> None:
        """The container is gone."""
        with self._lock:
            self._used.discard(int(IPv4Address(address)) - int(self.network.network_address))

    # Namespaces

    def enter_new_namespace(self) -> str:
        """Move the calling thread into a new, connected network namespace; returns its address.

        What the thread starts lives there, and the namespace lives as long as that. Call `leave_namespace` after.
        """
        assert self._netlink is not None
        kernel.unshare(kernel.CLONE_NEWNET)
        number = self._take()
        address = IPv4Interface((int(self.network.network_address) + number, PREFIX))
        try:
            prepare_namespace()
            own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._add_veth(number, own)
            finally:
                os.close(own)
            with Netlink() as inside:
                eth0 = inside.links()["eth0"][0]
                inside.set_up(1, eth0)
                inside.add_address(eth0, address)
                inside.add_default_route(self.gateway)
        except BaseException:
            self.release(str(address.ip))
            self.leave_namespace()
            raise
        return str(address.ip)

    def _add_veth(self, number: int, namespace: int) -> None:
        assert self._netlink is not None
        name = names.veth_name(self.home, number)
        try:
            self._netlink.add_isolated_veth(name, self._index, self._mtu, namespace, "eth0")
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            # A namespace that the kernel has not yet taken down holds the name.
            stale = self._netlink.links().get(name)
            if stale is not None:
                self._netlink.delete(stale[0])
            self._netlink.add_isolated_veth(name, self._index, self._mtu, namespace, "eth0")

    def leave_namespace(self) -> None:
        """Bring the calling thread back."""
        kernel.setns(self._host, kernel.CLONE_NEWNET)

    def close(self, remove: bool) -> None:
        """Let go of it; with `remove`, take the ports, the bridge and the table away."""
        if self._netlink is None:
            return
        try:
            if remove:
                self._remove()
        finally:
            self._netlink.close()
            self._netlink = None
            os.close(self._host)

    def _remove(self) -> None:
        assert self._netlink is not None
        _remove_ports(self._netlink, self._index)
        self._netlink.delete(self._index)
        remove_table(names.table_name(self.home))


def remove_bridge(home: Path) -> None:
    """Take away what the bridge of a state directory has left, if anything."""
    with Netlink() as netlink:
        found = netlink.links().get(names.bridge_name(home))
        if found is not None:
            _remove_ports(netlink, found[0])
            netlink.delete(found[0])
    remove_table(names.table_name(home))


def _remove_ports(netlink: Netlink, bridge: int) -> None:
    for index, values in netlink.links().values():
        if IFLA_MASTER in values and struct.unpack("=I", values[IFLA_MASTER])[0] == bridge:
            netlink.delete(index)


def prepare_namespace() -> None:
    """Settings of the calling thread's new network namespace: IPv4 alone, ping and low ports without privileges."""
    _set("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1", missing_ok=True)
    _set("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")
    _set("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")


def _set(path: str, value: str, missing_ok: bool = False) -> None:
    try:
        with open(path, "r+") as setting:
            if setting.read().split() == value.split():
                return
            setting.seek(0)
            setting.write(value)
    except FileNotFoundError:
        if not missing_ok:
            raise
    except OSError as error:
        raise NetworkError(f"{path} cannot be set to {value}: {error.strerror}") from error
