"""Links, addresses and routes by rtnetlink, in this process: 1 ms where `ip` commands take 12."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterator

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD = 3, 4, 10, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_ISOLATED, VETH_INFO_PEER = 33, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
IFF_UP = 1
NLA_NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags

Attributes = dict[int, bytes]


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute, padded."""
    if isinstance(value, str):
        data = value.encode() + b"\0"
    elif isinstance(value, int):
        data = struct.pack("=I", value)
    else:
        data = value
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attributes(data: bytes) -> Attributes:
    """Attributes by kind."""
    found: Attributes = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Netlink:
    """One socket, bound to the network namespace of the thread that made it. Safe to share between threads."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, *messages: tuple[int, int, bytes]) -> None:
        """Send (type, flags, body) messages at once and await every answer. Raises OSError of the first that failed."""
        with self._lock:
            data = b""
            for kind, flags, body in messages:
                self._sequence += 1
                header = _HEADER.pack(len(body) + 16, kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0)
                data += header + body + b"\0" * (-len(body) % 4)
            self._socket.send(data)
            error = 0
            left = len(messages)
            while left:
                for kind, body in self._receive():
                    if kind == NLMSG_ERROR:
                        left -= 1
                        error = error or -struct.unpack_from("=i", body)[0]
        if error:
            raise OSError(error, f"netlink: {os.strerror(error)}")

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Everything of one type."""
        with self._lock:
            self._sequence += 1
            header = _HEADER.pack(len(body) + 16, kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
            self._socket.send(header + body)
            found: list[bytes] = []
            while True:
                for answer, data in self._receive():
                    if answer == NLMSG_DONE:
                        return found
                    if answer == NLMSG_ERROR:
                        number = -struct.unpack_from("=i", data)[0]
                        raise OSError(number, f"netlink: {os.strerror(number)}")
                    found.append(data)

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        data = self._socket.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
            yield kind, data[offset + 16 : offset + length]
            offset += (length + 3) & ~3

    # Reading

    def links(self) -> dict[str, tuple[int, Attributes]]:
        """Interfaces by name: index and attributes."""
        found: dict[str, tuple[int, Attributes]] = {}
        for data in self.dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0)):
            _, _, index, _, _ = _LINK.unpack_from(data)
            values = attributes(data[16:])
            found[values[IFLA_IFNAME].rstrip(b"\0").decode()] = (index, values)
        return found

    def addresses(self, index: int) -> list[ipaddress.IPv4Interface]:
        """IPv4 addresses of one interface."""
        found = []
        for data in self.dump(RTM_GETADDR, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix, _, _, owner = _ADDRESS.unpack_from(data)
            local = attributes(data[8:]).get(IFA_LOCAL)
            if owner == index and local:
                found.append(ipaddress.IPv4Interface((local, prefix)))
        return found

    def routes(self) -> list[tuple[ipaddress.IPv4Network, int]]:
        """IPv4 routes: destination and interface index (0 where there is none)."""
        found = []
        for data in self.dump(RTM_GETROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            length = data[1]
            values = attributes(data[12:])
            target = values.get(RTA_DST, b"\0\0\0\0")
            index = struct.unpack("=I", values[RTA_OIF])[0] if RTA_OIF in values else 0
            found.append((ipaddress.IPv4Network((target, length), strict=False), index))
        return found

    # Changing

    def add_bridge(self, name: str, mtu: int) -> None:
        """A bridge, up."""
        info = attribute(IFLA_LINKINFO | NLA_NESTED, attribute(IFLA_INFO_KIND, "bridge"))
        body = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu) + info
        self.request((RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body))

    def add_isolated_veth(self, name: str, bridge: int, mtu: int, namespace: int, peer: str) -> None:
        """A pair: `name` here, an isolated port of the bridge; `peer` in `namespace` (a descriptor)."""
        other = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, peer) + attribute(IFLA_MTU, mtu)
        other += attribute(IFLA_NET_NS_FD, namespace)
        info = attribute(IFLA_INFO_KIND, "veth")
        info += attribute(IFLA_INFO_DATA | NLA_NESTED, attribute(VETH_INFO_PEER | NLA_NESTED, other))
        create = _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu)
        create += attribute(IFLA_MASTER, bridge) + attribute(IFLA_LINKINFO | NLA_NESTED, info)
        port = attribute(IFLA_INFO_SLAVE_KIND, "bridge")
        port += attribute(IFLA_INFO_SLAVE_DATA | NLA_NESTED, attribute(IFLA_BRPORT_ISOLATED, b"\1"))
        isolate = _LINK.pack(0, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name)
        isolate += attribute(IFLA_LINKINFO | NLA_NESTED, port)
        self.request((RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, create), (RTM_NEWLINK, 0, isolate))

    def set_up(self, *indexes: int) -> None:
        """Bring interfaces up."""
        self.request(*((RTM_NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP)) for index in indexes))

    def add_address(self, index: int, address: ipaddress.IPv4Interface) -> None:
        """Give an interface an address."""
        body = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
        body += attribute(IFA_LOCAL, address.ip.packed) + attribute(IFA_ADDRESS, address.ip.packed)
        self.request((RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body))

    def add_default_route(self, gateway: ipaddress.IPv4Address) -> None:
        """The way out."""
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0) + attribute(RTA_GATEWAY, gateway.packed)
        self.request((RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body))

    def delete(self, index: int) -> None:
        """Remove an interface; one that is already gone is no error."""
        try:
            self.request((RTM_DELLINK, 0, _LINK.pack(0, 0, index, 0, 0)))
        except OSError as error:
            if error.errno != 19:  # ENODEV
                raise
