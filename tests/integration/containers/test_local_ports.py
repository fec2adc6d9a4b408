"""Ports of the machine's loopback address in containers, and names below localhost."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from intermodal.home import Home
from intermodal.worker.containers import Containers
from intermodal.worker.containers.launch import Bind
from tests.integration.containers.conftest import PYTHON, Ran, finish, line_of

pytestmark = pytest.mark.containers

ASK = """
import socket, sys
for host in sys.argv[2:]:
    try:
        with socket.create_connection((host, int(sys.argv[1])), timeout=100) as connection:
            print(connection.recv(100).decode())
    except OSError as error:
        print(type(error).__name__)
"""


class Taken:
    """What `LocalPorts` gives on: each connection is told whose it is."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int]] = []

    def __call__(self, container_id: str, port: int, connection: socket.socket) -> None:
        self.all.append((container_id, port))
        connection.sendall(f"{container_id} {port}".encode())


def orders(tmp_path: Path) -> Bind:
    """A FIFO that a container reads at /t/in."""
    (tmp_path / "orders").mkdir()
    os.mkfifo(tmp_path / "orders" / "in")
    return Bind(tmp_path / "orders", "/t", read_only=False)


@pytest.fixture
def port() -> Iterator[int]:
    """One that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_every_local_name_leads_to_the_port(containers: Containers, run, port: int):
    taken = containers.local_ports.take = Taken()
    await containers.local_ports.set([port])
    hosts = [
        "127.0.0.1",
        "localhost",
        "me--app-f.localhost",
        "0123456789abcdef.tunnel.localhost",
        "a" * 63 + ".localhost",
    ]
    ran = await run(PYTHON, "-I", "-c", ASK, str(port), *hosts, container_id="ta-here")
    assert ran.out.splitlines() == [f"ta-here {port}"] * len(hosts), ran.err
    assert taken.all == [("ta-here", port)] * len(hosts)


async def test_a_container_without_a_network_gets_none(containers: Containers, run, port: int):
    containers.local_ports.take = Taken()
    await containers.local_ports.set([port])
    ran = await run(PYTHON, "-I", "-c", ASK, str(port), "127.0.0.1", "::1", "x.localhost", network="none")
    lines = ran.out.splitlines()
    assert lines[0] == "ConnectionRefusedError", ran.err
    assert f"{port}" not in ran.out
    assert len(lines) == 3


async def test_only_the_loopback_address_of_the_container_has_it(containers: Containers, launch, port: int):
    containers.local_ports.take = Taken()
    await containers.local_ports.set([port])
    running = await containers.start(launch("sleep", "100"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.address, port), timeout=100)
    await running.close()


async def test_ports_come_and_go_while_it_runs(containers: Containers, launch, port: int, tmp_path: Path):
    containers.local_ports.take = Taken()
    running = await containers.start(
        launch(
            "sh",
            "-c",
            f"while read -r p; do {PYTHON} -I -c '{ASK}' $p 127.0.0.1; done < /t/in",
            binds=[orders(tmp_path)],
        )
    )
    with (tmp_path / "orders" / "in").open("w") as told:
        told.write(f"{port}\n")
        told.flush()
        assert await line_of(running.stdout_fd) == "ConnectionRefusedError"
        await containers.local_ports.set([port])
        told.write(f"{port}\n")
        told.flush()
        assert await line_of(running.stdout_fd) == f"{running.container_id} {port}"
        await containers.local_ports.set([])
        told.write(f"{port}\n")
        told.flush()
        assert await line_of(running.stdout_fd) == "ConnectionRefusedError"
    await finish(running)


async def test_a_port_that_the_program_has_is_its_own(containers: Containers, python, port: int):
    """Ports that come later do not disturb it; what came before is taken, which the program is told."""
    containers.local_ports.take = Taken()
    await containers.local_ports.set([port])
    ran: Ran = await python(
        "import socket\n"
        f"try:\n    socket.create_server(('127.0.0.1', {port}))\n"
        "except OSError as error:\n    print(error)"
    )
    assert "in use" in ran.out, ran.err


async def test_they_are_there_for_the_next_worker(tmp_path: Path, launch, port: int):
    home = Home(tmp_path / "home")
    first = Containers(home)
    await first.open()
    await first.local_ports.set([port])
    running = await first.start(
        launch(
            "sh", "-c", f"read -r p < /t/in; exec {PYTHON} -I -c '{ASK}' $p x.localhost",
            binds=[orders(tmp_path)], outlives_worker=True,
        )
    )  # fmt: skip
    name = running.container_id
    await first.close(keep_containers=True)
    second = Containers(home)
    await second.open()
    second.local_ports.take = Taken()
    (adopted,) = await second.adopt()
    await second.local_ports.set([port])
    (tmp_path / "orders" / "in").write_text(f"{port}\n")
    ended = await finish(adopted)
    assert ended.out.strip() == f"{name} {port}", ended.err
    await second.close()
