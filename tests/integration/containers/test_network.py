"""What containers reach, and what not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers
from intermodal.worker.network.resolver import Resolver
from tests import outside as beyond
from tests.integration.containers.conftest import PYTHON, finish, line_of
from tests.integration.containers.traces import traces_of

pytestmark = pytest.mark.containers

SERVER = """
import socket, sys
server = socket.create_server(("0.0.0.0", 8000))
print("ready", flush=True)
while True:
    connection, address = server.accept()
    connection.sendall(("hello " + address[0]).encode())
    connection.close()
"""
CLIENT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as connection:
        print(connection.recv(100).decode())
except TimeoutError:
    print("timeout")
except OSError as error:
    print("refused")
"""


@pytest.fixture
def outside() -> Iterator[str]:
    """A machine beyond this one, with a server. Its address."""
    with beyond.machine(SERVER, "198.51.100") as address:
        yield address


@pytest.fixture
def service() -> Iterator[int]:
    """A server of this machine, on every address. Its port."""
    server = socket.create_server(("0.0.0.0", 0))
    server.settimeout(0.1)
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            connection.sendall(b"hello from the machine")
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    ending.set()
    thread.join()
    server.close()


async def ask(run, address: str, port: int, **fields: object) -> str:
    ran = await run(PYTHON, "-I", "-c", CLIENT, address, str(port), **fields)
    return ran.out.strip() or ran.err


async def test_the_outside_is_reached_and_sees_the_machine(run, outside):
    here = str(ipaddress.IPv4Address(outside) - 1)
    assert await ask(run, outside, 8000) == f"hello {here}"


async def test_none_has_only_loopback(run, outside):
    assert await ask(run, outside, 8000, network="none") == "refused"
    ran = await run("ls", "/sys/class/net", network="none")
    assert ran.out.split() == ["lo"]


async def test_loopback_is_up(python):
    for network in ("bridge", "none"):
        ran = await python(
            "import socket\ns = socket.create_server(('127.0.0.1', 80))\n"
            "socket.create_connection(('127.0.0.1', 80)).close()\nprint('ok')",
            network=network,
        )
        assert ran.out == "ok\n", ran.err


async def test_the_machines_services_are_out_of_reach(containers: Containers, run, service, outside):
    bridge = containers._bridge
    assert bridge is not None
    for address in (str(bridge.gateway), "198.51.100.1"):
        assert await ask(run, address, service) == "refused"
    assert await ask(run, "127.0.0.1", service) == "refused"
    assert await ask(run, "127.0.0.1", service, network="host") == "hello from the machine"


async def test_ports_that_the_operator_opened_are_within_reach(tmp_path: Path, launch, service, monkeypatch):
    monkeypatch.setenv("INTERMODAL_HOST_PORTS", str(service))
    containers = Containers(Home(tmp_path / "home"))
    await containers.open()
    client = [PYTHON, "-I", "-c", CLIENT, "host.intermodal.internal", str(service)]
    ran = await finish(await containers.start(launch(*client)))
    assert ran.out.strip() == "hello from the machine"
    await containers.close()


async def test_a_bad_list_of_ports_is_named(tmp_path: Path, launch, monkeypatch):
    monkeypatch.setenv("INTERMODAL_HOST_PORTS", "http")
    containers = Containers(Home(tmp_path / "home"))
    await containers.open()
    assert "INTERMODAL_HOST_PORTS" in containers.problems[0]
    await containers.close()


async def test_link_local_addresses_are_refused(run):
    assert await ask(run, "169.254.169.254", 80) == "refused"


async def test_containers_do_not_reach_each_other_but_the_machine_reaches_them(containers: Containers, launch, run):
    server = await containers.start(launch(PYTHON, "-I", "-c", SERVER))
    assert await line_of(server.stdout_fd) == "ready"
    assert ipaddress.ip_address(server.address) in containers._bridge.network  # type: ignore[union-attr]
    assert await ask(run, server.address, 8000) in ("refused", "timeout")
    reader, writer = await asyncio.open_connection(server.address, 8000)
    assert (await reader.read()).startswith(b"hello ")
    writer.close()
    await writer.wait_closed()
    await server.close()


async def test_its_own_name_and_the_machines_resolvers(run, containers: Containers):
    ran = await run("sh", "-c", "cat /etc/hostname; getent hosts mine; cat /etc/resolv.conf", hostname="mine")
    lines = ran.out.splitlines()
    assert lines[0] == "mine"
    assert lines[1].split()[1] == "mine"
    assert ipaddress.ip_address(lines[1].split()[0]) in containers._bridge.network  # type: ignore[union-attr]
    assert any(line.startswith("nameserver ") for line in lines)


async def test_a_resolver_on_the_machines_loopback_is_reached_through_the_bridge(tmp_path: Path, launch, monkeypatch):
    address = "127.0.0.153"
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    server.settimeout(0.1)
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            try:
                question, peer = server.recvfrom(512)
            except TimeoutError:
                continue
            end = question.index(b"\0", 12) + 5
            kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
            answers = 1 if kind == 1 else 0
            answer = question[:2] + struct.pack(">HHHHH", 0x8180, 1, answers, 0, 0) + question[12:end]
            if answers:
                answer += struct.pack(">HHHIH4s", 0xC00C, 1, 1, 60, 4, socket.inet_aton("203.0.113.9"))
            server.sendto(answer, peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        monkeypatch.setattr("intermodal.worker.network.bridge.read_resolver", lambda: Resolver((), (), address))
        containers = Containers(Home(tmp_path / "home"))
        await containers.open()
        ran = await finish(await containers.start(launch("getent", "ahostsv4", "name.example")))
        assert ran.out.startswith("203.0.113.9 "), ran.err
        await containers.close()
    finally:
        ending.set()
        thread.join()
        server.close()


async def test_two_homes_do_not_meet(tmp_path: Path, containers: Containers, launch):
    other = Containers(Home(tmp_path / "other"))
    await other.open()
    assert other._bridge is not None
    assert containers._bridge is not None
    assert not other._bridge.network.overlaps(containers._bridge.network)
    running = await containers.start(launch("sleep", "100"))
    await other.close()
    assert traces_of(other.home.path) == []
    assert running.exit is None
    await running.close()
