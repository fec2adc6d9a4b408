"""Names of the machine's things, resolver files and firewall rules: text in, text out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from intermodal.worker.containers import names
from intermodal.worker.network.firewall import Firewall
from intermodal.worker.network.netlink import attribute, attributes
from intermodal.worker.network.resolver import Resolver, hosts_text, read_resolver


def test_interface_names_fit_and_differ():
    one, other = Path("/tmp/one"), Path("/tmp/other")
    assert names.bridge_name(one) != names.bridge_name(other)
    assert len(names.bridge_name(one)) <= 15
    assert len(names.veth_name(one, 4093)) <= 15
    assert len({names.veth_name(one, number) for number in range(4096)}) == 4096


@pytest.mark.parametrize(
    ("host", "systemd", "expected"),
    [
        ("nameserver 192.0.2.1\nsearch a.example\n", "", (("192.0.2.1",), ("search a.example",), "")),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.7\n", (("192.0.2.7",), (), "")),
        ("nameserver 127.0.0.1\noptions edns0\n", "", ((), ("options edns0",), "127.0.0.1")),
        ("nameserver ::1\nnameserver 192.0.2.1\n", "", (("192.0.2.1",), (), "")),
        ("# nothing\nnameserver\nnameserver x\n", "", ((), (), "")),
    ],
)
def test_resolvers_that_a_container_can_reach(tmp_path: Path, host, systemd, expected):
    (tmp_path / "host").write_text(host)
    (tmp_path / "systemd").write_text(systemd)
    assert read_resolver(tmp_path / "host", tmp_path / "systemd") == Resolver(*expected)
    assert read_resolver(tmp_path / "missing", tmp_path / "missing") == Resolver((), ())


def test_resolv_conf_and_hosts():
    assert Resolver(("192.0.2.1",), ("search a",)).text("10.0.0.1") == "nameserver 192.0.2.1\nsearch a\n"
    assert Resolver((), (), "127.0.0.1").text("10.0.0.1") == "nameserver 10.0.0.1\n"
    text = hosts_text("me", "10.0.0.2", "10.0.0.1")
    assert "10.0.0.2\tme\n" in text
    assert "10.0.0.1\thost.intermodal.internal\n" in text
    assert "127.0.0.1\tme\n" in hosts_text("me", "", "")


def firewall(**fields: object) -> str:
    values = {
        "table": "t",
        "bridge": "b",
        "network": IPv4Network("10.0.0.0/20"),
        "gateway": IPv4Address("10.0.0.1"),
        "resolver": Resolver(("192.0.2.1", "169.254.169.253"), ()),
        **fields,
    }
    return Firewall(**values).rules()  # type: ignore[arg-type]


def test_rules_let_names_through_before_they_refuse_link_local():
    rules = firewall()
    names_at = rules.index("192.0.2.1, 169.254.169.253")
    assert names_at < rules.index("169.254.0.0/16 reject")
    assert "dnat" not in rules
    assert "tcp dport {" not in rules


def test_rules_for_a_resolver_on_loopback_and_for_open_ports():
    rules = firewall(resolver=Resolver((), (), "127.0.0.1"), host_ports=(80, 443))
    assert 'iifname "b" ip daddr 10.0.0.1 meta l4proto { tcp, udp } th dport 53 dnat ip to 127.0.0.1' in rules
    assert 'iifname "b" tcp dport { 80, 443 } accept' in rules
    assert "daddr {  }" not in rules


def test_attributes_survive():
    data = attribute(3, "eth0") + attribute(4, 1500) + attribute(0x8000 | 18, attribute(1, b"xyz"))
    found = attributes(data)
    assert found[3] == b"eth0\0"
    assert found[4] == (1500).to_bytes(4, "little")
    assert attributes(found[18]) == {1: b"xyz"}
    assert attributes(b"\x01\x00\x01") == {}
    assert attributes(b"\x00\x00\x01\x00") == {}
